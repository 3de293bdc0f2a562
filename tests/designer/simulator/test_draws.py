"""Streams: same keys, same numbers; distributions by their moments."""

from __future__ import annotations

import numpy as np
import pytest

from designer.simulator import draws


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert np.array_equal(draws.uniforms(1, "gap", 10), draws.uniforms(1, "gap", 1000)[:10])


def test_seed_and_purpose_each_make_another_stream() -> None:
    one = draws.uniforms(1, "gap", 5)
    assert not np.array_equal(one, draws.uniforms(2, "gap", 5))
    assert not np.array_equal(one, draws.uniforms(1, "bytes", 5))


def test_the_stream_is_the_documented_one() -> None:
    """Results are published by seed: these numbers must never change."""
    assert draws.uniforms(1, "gap", 3).tolist() == pytest.approx(PINNED, abs=1e-15)


PINNED = [0.34381226506929424, 0.968450321352992, 0.34281867673848826]


def test_uniforms_are_never_at_an_end() -> None:
    numbers = draws.uniforms(0, "x", 100_000)
    assert numbers.min() > 0.0
    assert numbers.max() < 1.0


@pytest.mark.parametrize(
    ("numbers", "cv"),
    [
        (draws.exponentials(1, "x", 200_000), 1.0),
        (draws.unit_lognormals(1, "x", 200_000, 0.8), float(np.sqrt(np.exp(0.64) - 1))),
        (draws.unit_gammas(1, "x", 200_000, 2.0), 2.0),
    ],
    ids=["exponential", "lognormal", "gamma"],
)
def test_moments(numbers: draws.Floats, cv: float) -> None:
    assert numbers.mean() == pytest.approx(1.0, rel=0.02)
    assert numbers.std() == pytest.approx(cv, rel=0.03)


def test_choices_follow_their_weights() -> None:
    picked = draws.choices(1, "x", 100_000, np.array([1.0, 3.0]))
    assert picked.mean() == pytest.approx(0.75, abs=0.01)
    assert set(picked.tolist()) == {0, 1}
