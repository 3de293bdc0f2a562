"""Against values known from elsewhere: hand calculation, scipy, and the papers' own examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from designer.statistics import (
    Interval,
    bca_interval,
    bootstrap_interval,
    holm,
    log_ratios,
    paired_effect,
    ratio_interval,
    sign_flip_p,
    t_interval,
    t_test_p,
)

SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
"""Student's sleep data (1908), differences of the two drugs: mean 1.58, t = 4.0621, 95 % interval 0.7001 ... 2.4599."""


def test_t_interval_of_students_own_data() -> None:
    interval = t_interval(SLEEP)
    assert interval.low == pytest.approx(0.7001142, abs=1e-6)
    assert interval.high == pytest.approx(2.4598858, abs=1e-6)


def test_bca_agrees_with_scipy() -> None:
    sample = np.exp(0.3 * np.random.default_rng(3).normal(size=64))
    expected = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    mine = bca_interval(sample)
    assert mine.low == pytest.approx(expected.confidence_interval.low, rel=0.01)
    assert mine.high == pytest.approx(expected.confidence_interval.high, rel=0.01)


def test_a_wide_interval_has_resamples_enough_beyond_it() -> None:
    """With the fewer resamples of a narrow one the two ends would hang on two dozen of them."""
    sample = np.exp(0.3 * np.random.default_rng(3).normal(size=64))
    expected = stats.bootstrap(
        (sample,), np.mean, n_resamples=100_000, confidence_level=0.995, method="BCa", rng=np.random.default_rng(1)
    )
    mine = bca_interval(sample, 0.995)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert mine.low == pytest.approx(expected.confidence_interval.low, abs=0.015 * width)
    assert mine.high == pytest.approx(expected.confidence_interval.high, abs=0.015 * width)


def test_bca_of_a_skewed_sample_is_shifted_towards_its_tail() -> None:
    sample = np.array([1.0] * 12 + [2.0, 3.0, 9.0])
    plain, better = bootstrap_interval(sample, 0.95), bca_interval(sample, 0.95)
    assert better.low > plain.low
    assert better.high > plain.high


def test_identical_differences_have_a_point_for_interval() -> None:
    assert bca_interval(np.full(5, 0.25)) == Interval(0.25, 0.25)
    assert t_interval(np.full(5, 0.25)) == Interval(0.25, 0.25)


@pytest.mark.parametrize("number", [4, 8, 64])
def test_differences_that_are_alike_but_for_rounding_have_an_interval(number: int) -> None:
    sample = np.full(number, 0.25)
    sample[0] = np.nextafter(0.25, 1.0)
    interval = bca_interval(sample)
    assert interval.low == pytest.approx(0.25)
    assert interval.high == pytest.approx(0.25)
    assert bca_interval(np.array([1e-120, 2e-120, 3e-120])).high < 1e-119


def test_one_seed_gives_no_interval() -> None:
    effect = paired_effect([2.0], [4.0])
    assert effect.ratio == pytest.approx(0.5)
    assert math.isnan(effect.t_interval.low)
    assert math.isnan(effect.bca_interval.high)
    assert effect.p_value == 1.0
    assert effect.verdict(0.02) == "undecided"


def test_sign_flip_by_hand() -> None:
    # all eight patterns of 1, 2, 3: only +++ and --- reach a sum of 6
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p(np.array([1.0, 2.0, 3.0]), "greater") == 1 / 8
    assert sign_flip_p(np.array([1.0, 2.0, 3.0]), "less") == 1.0


def test_sign_flip_counts_ties_whatever_the_rounding() -> None:
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, -0.6])) == 1.0


def test_sign_flip_agrees_with_scipy() -> None:
    sample = np.random.default_rng(0).normal(0.4, 1.0, size=12)
    expected = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(sample) == pytest.approx(expected.pvalue)


def test_sampled_sign_flips_are_near_the_t_test_and_never_zero() -> None:
    sample = np.random.default_rng(1).normal(0.3, 1.0, size=40)
    assert sign_flip_p(sample) == pytest.approx(stats.ttest_1samp(sample, 0.0).pvalue, abs=0.01)
    assert sign_flip_p(np.full(30, 1.0)) == pytest.approx(1e-5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()


def test_paired_effect_is_a_ratio_of_geometric_means() -> None:
    effect = paired_effect([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert effect.ratio == pytest.approx(0.5)
    assert effect.t_interval.low == pytest.approx(0.5)
    assert effect.verdict(0.02) == "better"
    assert paired_effect([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]).verdict(0.02) == "worse"


def test_the_worst_seed_is_told_beside_the_mean() -> None:
    effect = paired_effect([1.0, 1.0, 3.0], [2.0, 2.0, 1.5])
    assert (effect.num_worse, effect.worst_ratio) == (1, pytest.approx(2.0))
    assert effect.ratio < 1.0


def test_verdict_needs_the_interval_clear_of_the_margin() -> None:
    effect = paired_effect([0.985] * 8, [1.0] * 8)
    assert effect.verdict(0.01) == "better"
    assert effect.verdict(0.02) == "undecided"


def test_pairs_must_match_and_be_positive() -> None:
    with pytest.raises(ValueError, match="same seeds: 2 and 1"):
        log_ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="positive finite"):
        log_ratios([0.0], [1.0])


def test_intervals_cover_at_about_their_level() -> None:
    rng = np.random.default_rng(7)
    hits = [t_interval(rng.normal(0, 1, 16)) for _ in range(400)]
    covered = sum(interval.low <= 0 <= interval.high for interval in hits)
    assert 0.92 <= covered / 400 <= 0.98


def test_a_ratio_of_means_has_fiellers_interval() -> None:
    """Its ends are the ratios r at which the mean of above - r below is just told from 0, by definition."""
    rng = np.random.default_rng(5)
    below = rng.normal(2.0, 0.5, 12)
    above = 0.6 * below + rng.normal(0.0, 0.2, 12)
    interval = ratio_interval(above, below)
    for end in (interval.low, interval.high):
        assert stats.ttest_1samp(above - end * below, 0.0).pvalue == pytest.approx(0.05)
    assert interval.low < above.mean() / below.mean() < interval.high
    exact = ratio_interval(0.25 * below, below)
    assert (exact.low, exact.high) == pytest.approx((0.25, 0.25))


def test_a_share_of_what_may_be_nothing_has_no_interval() -> None:
    interval = ratio_interval(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 1.0, 0.5]))
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(ratio_interval(np.array([1.0]), np.array([1.0])).low)


def test_fiellers_interval_covers_at_about_its_level() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        below = rng.normal(1.0, 0.4, 8)
        interval = ratio_interval(0.5 * below + rng.normal(0.0, 0.3, 8), below)
        covered += math.isnan(interval.low) or interval.low <= 0.5 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_one_sided_t_agrees_with_scipy() -> None:
    for side in ("less", "greater"):
        assert t_test_p(SLEEP, side) == pytest.approx(stats.ttest_1samp(SLEEP, 0.0, alternative=side).pvalue)
    assert t_test_p(np.array([-1.0, -1.0]), "less") == 0.0
    assert t_test_p(np.array([-1.0, -1.0]), "greater") == 1.0
    assert t_test_p(np.array([-1.0]), "less") == 1.0
