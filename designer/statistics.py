"""How two policies are compared: the unit is an independent seed, never a request.

The effect of policy A against B is the mean over seeds of ``d_i = ln(a_i / b_i)``, with ``a_i`` and ``b_i`` the metric
of the two on the *same* seed (common random numbers); ``exp(mean d)`` is the ratio reported. Below 1 A is better, when
lower is better. The formulas, each tested against values known from elsewhere:

* t interval: ``mean d ± t(1 - alpha/2, n - 1) * s / sqrt(n)``, ``s`` with ``n - 1`` in its denominator.
* BCa interval: Efron, "Better bootstrap confidence intervals", JASA 82 (1987), with the jackknife's acceleration.
* sign-flip test: under "no effect" every ``d_i`` is as likely ``-d_i``. p is the share of the ``2**n`` sign patterns
  whose mean is at least as extreme; all of them up to n = 16, beyond that 99,999 drawn ones and the observed one:
  ``(1 + hits) / (1 + drawn)`` (Phipson and Smyth, 2010), which never reports 0.
* Fieller's interval for the ratio of two means measured on the same seeds (Fieller, "Some problems in interval
  estimation", JRSS B 16, 1954): all ratios r for which the mean of ``x_i - r y_i`` is not told from 0 by Student's t.
* Holm's step-down: the k-th smallest of m p-values times ``m - k + 1``, made monotone, at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "less", "greater"]

EXACT_SIGN_FLIPS = 16
NUM_SIGN_FLIPS = 99_999
NUM_RESAMPLES = 9_999
NUM_BEYOND = 250
"""Resamples in each tail, at least, as there are in those of an interval of 95 %: 100,000 for one of 99.5 %."""
_SEED = 20_251_027
"""Resampling is part of the definition of a result: the same data always give the same interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends NaN where the data cannot give one (fewer than two seeds)."""

    low: float
    high: float

    def exp(self) -> Interval:
        return Interval(math.exp(self.low), math.exp(self.high))


@dataclass(frozen=True, slots=True)
class PairedEffect:
    """A against B on the same seeds. ``ratio`` and intervals are of A/B, no longer logarithms."""

    num_seeds: int
    ratio: float
    """``exp`` of the mean log-ratio: a ratio of geometric means."""
    t_interval: Interval
    bca_interval: Interval
    p_value: float
    """Two-sided sign-flip."""
    num_worse: int
    """Seeds with a ratio above 1."""
    worst_ratio: float
    """Of one seed: what a mean does not show."""

    def verdict(self, margin: float) -> Literal["better", "worse", "undecided"]:
        """Whether the t and the BCa interval both lie beyond ``margin`` (0.02: at least 2 % better), lower better."""
        highest = max(self.t_interval.high, self.bca_interval.high)
        lowest = min(self.t_interval.low, self.bca_interval.low)
        if highest < 1.0 - margin:
            return "better"
        return "worse" if lowest > 1.0 + margin else "undecided"


def log_ratios(values: Sequence[float], reference: Sequence[float]) -> Floats:
    """``ln(values / reference)`` seed by seed.

    Raises:
        ValueError: different numbers of seeds, none, or a value that is not a positive finite number.
    """
    a, b = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"paired values need the same seeds: {len(a)} and {len(b)}")
    if not (np.all(np.isfinite(a) & (a > 0)) and np.all(np.isfinite(b) & (b > 0))):
        raise ValueError("a ratio needs positive finite values")
    return np.asarray(np.log(a / b), dtype=np.float64)


def paired_effect(values: Sequence[float], reference: Sequence[float], confidence: float = 0.95) -> PairedEffect:
    """The effect of ``values`` against ``reference``, seed by seed."""
    d = log_ratios(values, reference)
    return PairedEffect(
        num_seeds=len(d),
        ratio=math.exp(d.mean()),
        t_interval=t_interval(d, confidence).exp(),
        bca_interval=bca_interval(d, confidence).exp(),
        p_value=sign_flip_p(d),
        num_worse=int(np.count_nonzero(d > 0.0)),
        worst_ratio=math.exp(d.max()),
    )


def t_interval(sample: Floats, confidence: float = 0.95) -> Interval:
    """For the mean, by Student's t."""
    if len(sample) < 2:
        return Interval(math.nan, math.nan)
    half = (
        float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1)) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    )
    mean = float(sample.mean())
    return Interval(mean - half, mean + half)


def ratio_interval(above: Floats, below: Floats, confidence: float = 0.95) -> Interval:
    """For ``mean(above) / mean(below)``, paired, by Fieller; NaN where ``below`` is not told from 0: any ratio goes."""
    n = len(above)
    if n < 2:
        return Interval(math.nan, math.nan)
    (xx, xy), (_, yy) = (np.cov(above, below, ddof=1) / n).tolist()
    x, y = float(above.mean()), float(below.mean())
    t = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    a = y * y - t * t * yy
    if a <= 0:
        return Interval(math.nan, math.nan)
    b, c = x * y - t * t * xy, x * x - t * t * xx
    half = math.sqrt(max(0.0, b * b - a * c))
    return Interval((b - half) / a, (b + half) / a)


def t_test_p(differences: Floats, alternative: Literal["less", "greater"]) -> float:
    """One-sided p of "the mean is 0" by Student's t; where few seeds are compared with many corrections, sign flips
    have no p small enough. Differences that are all alike and not 0 give 0."""
    n = len(differences)
    if n < 2:
        return 1.0
    spread, mean = float(differences.std(ddof=1)), float(differences.mean())
    signed = mean if alternative == "greater" else -mean
    if spread == 0.0:
        return 0.0 if signed > 0 else 1.0
    return float(stats.t.sf(signed / (spread / math.sqrt(n)), n - 1))


def bca_interval(sample: Floats, confidence: float = 0.95) -> Interval:
    """For the mean, by the bias-corrected and accelerated bootstrap."""
    if len(sample) < 2:
        return Interval(math.nan, math.nan)
    if np.ptp(sample) == 0.0:
        return Interval(float(sample[0]), float(sample[0]))
    tail = (1 - confidence) / 2
    means = _resampled_means(sample, max(NUM_RESAMPLES, math.ceil(NUM_BEYOND / tail) - 1))
    levels = [_bca_level(sample, means, level) for level in (tail, 1 - tail)]
    low, high = np.quantile(means, levels)
    return Interval(float(low), float(high))


def _bca_level(sample: Floats, means: Floats, level: float) -> float:
    """The percentile of the resampled means that stands for ``level`` (Efron 1987, equation 2.3)."""
    observed = sample.mean()
    below = (np.sum(means < observed) + np.sum(means <= observed)) / (2 * len(means))
    bias = special.ndtri(np.clip(below, 1 / len(means), 1 - 1 / len(means)))
    jackknife = (sample.sum() - sample) / (len(sample) - 1)
    away = jackknife.mean() - jackknife
    spread = np.sum(away**2) ** 1.5
    acceleration = np.sum(away**3) / (6 * spread) if spread > 0 else 0.0  # differences by rounding have no skew
    shifted = bias + special.ndtri(level)
    return float(special.ndtr(bias + shifted / (1 - acceleration * shifted)))


def bootstrap_interval(sample: Sequence[float], confidence: float = 0.90) -> Interval:
    """For the mean, by the plain percentile bootstrap: what the paper's figures give."""
    data = np.asarray(sample, dtype=np.float64)
    if len(data) < 2:
        return Interval(math.nan, math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(data), [tail, 1 - tail])
    return Interval(float(low), float(high))


def _resampled_means(sample: Floats, count: int = NUM_RESAMPLES) -> Floats:
    """Ten thousand at a time: of a hundred thousand each number would be in memory three times over."""
    rng = np.random.Generator(np.random.Philox(key=_SEED))
    means = [_means_of(sample, rng, min(10_000, count - done)) for done in range(0, count, 10_000)]
    return np.concatenate(means)


def _means_of(sample: Floats, rng: np.random.Generator, count: int) -> Floats:
    picked = (rng.random((count, len(sample))) * len(sample)).astype(np.int64)
    return np.asarray(sample[picked].mean(axis=1), dtype=np.float64)


def sign_flip_p(differences: Floats, alternative: Alternative = "two-sided") -> float:
    """p of "the differences are symmetric about 0"; ``less``: against their mean being negative."""
    sums = _flipped_sums(differences)
    observed = float(differences.sum())
    slack = 1e-9 * float(np.abs(differences).sum())  # sums of the same terms in another order differ by rounding
    if alternative == "less":
        extreme = sums <= observed + slack
    elif alternative == "greater":
        extreme = sums >= observed - slack
    else:
        extreme = np.abs(sums) >= abs(observed) - slack
    hits = int(np.count_nonzero(extreme))
    if len(differences) <= EXACT_SIGN_FLIPS:
        return hits / len(sums)
    return (1 + hits) / (1 + len(sums))


def _flipped_sums(differences: Floats) -> Floats:
    n = len(differences)
    if n <= EXACT_SIGN_FLIPS:
        sums = np.zeros(1)
        for value in differences:
            sums = np.concatenate([sums - value, sums + value])
        return sums
    rng = np.random.Generator(np.random.Philox(key=_SEED))
    total = np.zeros(NUM_SIGN_FLIPS)
    for value in differences:
        total += np.where(rng.random(NUM_SIGN_FLIPS) < 0.5, -value, value)
    return total


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: the family-wise error stays under alpha where they do."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return tuple(adjusted)
