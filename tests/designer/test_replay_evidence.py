"""All replays judged together: what contradicts, what outweighs it, and that repeating does not buy a verdict."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from designer.replay_evidence import CONTRADICTED, LEAST_PAIRS, OUTWEIGHED, Wealth, contradiction_in, judged
from tests.support.replay_pairs import aborted, pairs

WORSE = [1.05, 1.04, 1.06, 1.05, 1.05, 1.06, 1.04]
BETTER = [0.81, 0.79, 0.80, 0.82, 0.80]


def test_what_comes_true_is_no_contradiction() -> None:
    told = judged(pairs(BETTER, 0.8))
    assert not told["contradicts"]
    assert told["pairs"] == 5
    (condition,) = told["conditions"]
    mean = condition["metrics"][1]
    assert mean["metric"] == "mean response time"
    assert mean["ratio"] == pytest.approx(0.804, abs=0.001)
    assert mean["simulated"] == pytest.approx(0.8)
    assert condition["evidence"] < OUTWEIGHED
    assert "does not contradict" in told["sentence"]
    assert contradiction_in(told) == ""


@pytest.mark.parametrize(
    ("ratios", "simulated"),
    [
        pytest.param(WORSE, 0.99, id="worse than the comparator"),
        pytest.param([0.90, 0.91, 0.89, 0.90, 0.91, 0.9, 0.9], 0.5, id="much less than promised"),
    ],
)
def test_a_significant_difference_is_one(ratios: list[float], simulated: float) -> None:
    told = judged(pairs(ratios, simulated))
    assert told["contradicts"]
    assert told["conditions"][0]["evidence"] >= CONTRADICTED
    assert "contradicts the simulator (mean " in contradiction_in(told)


def test_a_metric_that_was_simulated_as_worse_is_no_surprise() -> None:
    assert not judged(pairs([1.21, 1.2, 1.19, 1.2, 1.22, 1.2, 1.18], 1.2))["contradicts"]


def test_noise_is_none() -> None:
    assert not judged(pairs([0.7, 1.3, 0.9, 1.2, 0.6, 1.1], 0.8))["contradicts"]


def test_nothing_replayed_says_nothing() -> None:
    assert judged([]) is None
    assert contradiction_in(None) == ""


def test_few_pairs_are_not_judged_and_cannot_contradict() -> None:
    told = judged(pairs([9.0] * (LEAST_PAIRS - 1), 0.5))
    assert not told["contradicts"]
    assert "Too few to be judged: 5 are needed" in told["sentence"]
    assert judged(pairs([9.0] * LEAST_PAIRS, 0.5))["contradicts"]


def test_a_contradiction_is_not_repeated_away() -> None:
    """A replay that comes out well, after one that did not, adds to the data and takes nothing from them."""
    told = judged([*pairs(WORSE, 0.9), *pairs([0.99, 1.01], 0.9, first=8)])
    assert told["contradicts"]
    assert "2 valid pairs" not in told["sentence"]
    assert "9 valid pairs" in told["sentence"]


def test_much_better_data_outweigh_it() -> None:
    early, late = pairs(WORSE, 0.9), pairs([0.88, 0.87, 0.89, 0.86] * 5, 0.9, first=8)
    told = judged([*early, *late])
    assert not told["contradicts"]
    assert told["conditions"][0]["highest_evidence"] >= CONTRADICTED
    assert told["conditions"][0]["evidence"] <= OUTWEIGHED


def test_other_conditions_outweigh_nothing() -> None:
    """Without load every policy is alike: as many such pairs as one likes are no answer."""
    idle = pairs([1.0] * 30, 1.0, first=8, first_seconds=1.0)
    told = judged([*pairs(WORSE, 0.9), *idle])
    assert told["contradicts"]
    assert len(told["conditions"]) == 2
    assert "(the first 1 s)" in told["sentence"]


def test_invalid_pairs_are_counted_and_a_winner_that_loses_requests_is_worse() -> None:
    made = [*pairs(BETTER, 0.8), *pairs([1.0, 1.0], 0.8, first=6, state="invalid"), aborted(8)]
    told = judged(made)
    assert (told["pairs"], told["invalid"], told["aborted"]) == (5, 2, 1)
    assert "2 invalid" in told["sentence"]
    assert "1 pair was begun and not ended (nothing was measured)." in told["sentence"]
    assert judged(pairs([1.0] * 6, 0.8, state="lost"))["contradicts"]


def simulated_histories(mean: float, sigma: float, rounds: int, length: int) -> list[list[float]]:
    """Of one question, the wealth after every pair."""
    rng = random.Random(7)
    return [list(Wealth.of([rng.gauss(mean, sigma) for _ in range(length)]).after) for _ in range(rounds)]


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_whoever_looks_after_every_pair_is_misled_one_time_in_twenty_at_most(sigma: float) -> None:
    """At the very edge: no difference at all, a hundred pairs, a look after each."""
    histories = np.array(simulated_histories(0.0, sigma, rounds=400, length=100))
    assert (histories.max(axis=1) >= CONTRADICTED).mean() <= 0.05


def test_a_real_contradiction_is_found_and_hardly_ever_outweighed() -> None:
    histories = np.array(simulated_histories(0.15, 0.15, rounds=400, length=60))
    found = histories.max(axis=1) >= CONTRADICTED
    assert found.mean() >= 0.95
    firsts = (histories >= CONTRADICTED).argmax(axis=1)
    fell = [history[first:].min() <= OUTWEIGHED for history, first in zip(histories[found], firsts[found], strict=True)]
    assert np.mean(fell) <= 0.05


def test_wealth_is_the_product_of_fair_bets() -> None:
    assert Wealth.of([0.0] * 5).after == pytest.approx([1.0] * 5)
    assert Wealth.of([50.0] * 5).after[-1] == pytest.approx(2.0**5)
    assert Wealth.of([]).after == ()
    one: Any = Wealth.of([0.1]).after[0] + Wealth.of([-0.1]).after[0]
    assert one == pytest.approx(2.0)
    assert not math.isnan(Wealth.of([-1e6]).after[0])
