"""Pairs of real runs beside the simulator: what counts as a contradiction, and that promotion heeds it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from designer.fidelity import Comparison, Fidelity, Side, Times
from designer.findings import read_findings
from designer.ledger import Ledger
from designer.promote import PromotionError, promote
from designer.replay import Pair, ReplayError, contradicted_by, judge, replay
from designer.search import RunOutcome, new_ledger
from designer.simulator.scenario import Scenario
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def comparison(real: float, simulated: float, verdict: str = "valid") -> Comparison:
    def side(mean: float) -> Side:
        return Side(10, 10, Times(mean / 10, mean / 2), Times(mean, mean * 3))

    return Comparison("p", side(real), side(simulated), verdict, 0.001)


def pairs(ratios: list[float], simulated: float) -> list[Pair]:
    """Of these real ratios, on seeds of different size."""
    return [
        Pair(n, comparison(ratio * (n + 1), simulated * (n + 1)), comparison(n + 1.0, n + 1.0))
        for n, ratio in enumerate(ratios)
    ]


def test_what_comes_true_is_no_contradiction() -> None:
    outcome = judge(pairs([0.81, 0.79, 0.80, 0.82], 0.8), "least_loaded", "mock workers")
    assert not outcome["contradicts"]
    assert outcome["pairs"] == 4
    assert outcome["metrics"][1]["ratio"] == pytest.approx(0.805, abs=0.001)
    assert outcome["metrics"][1]["simulated"] == pytest.approx(0.8)
    assert "does not contradict" in outcome["sentence"]


@pytest.mark.parametrize(
    ("ratios", "simulated"),
    [
        pytest.param([1.05, 1.04, 1.06, 1.05], 0.99, id="worse than the comparator"),
        pytest.param([0.90, 0.91, 0.89, 0.90], 0.5, id="much less than promised"),
    ],
)
def test_a_significant_difference_is_one(ratios: list[float], simulated: float) -> None:
    outcome = judge(pairs(ratios, simulated), "least_loaded", "mock workers")
    assert outcome["contradicts"]
    assert contradicted_by([outcome]) == outcome["sentence"]
    assert contradicted_by([outcome, {**outcome, "contradicts": False}]) == ""


def test_noise_is_none() -> None:
    assert not judge(pairs([0.7, 1.3, 0.9, 1.2], 0.8), "least_loaded", "mock workers")["contradicts"]


def test_too_few_valid_pairs_are_not_judged() -> None:
    late = Pair(9, comparison(1.0, 1.0, "invalid: the client fell behind"), comparison(1.0, 1.0))
    with pytest.raises(ReplayError, match="2 of 3 pairs were valid, 3 are needed: invalid: the client fell behind"):
        judge([*pairs([0.8, 0.8], 0.8), late], "least_loaded", "mock workers")


def test_a_run_without_a_winner_has_nothing_to_replay(tmp_path: Path) -> None:
    with (
        new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger,
        pytest.raises(ReplayError, match="no winner"),
    ):
        replay(ledger, pairs=3)


def test_promotion_heeds_the_latest_replay_and_carries_it(outcome: RunOutcome, tmp_path: Path) -> None:
    shutil.copytree(outcome.folder, tmp_path / "run")
    bad = judge(pairs([1.05, 1.04, 1.06, 1.05], 0.8), "least_loaded", "mock workers")
    good = judge(pairs([0.81, 0.79, 0.80, 0.82], 0.8), "least_loaded", "mock workers")
    target = tmp_path / "live" / "designed.py"
    target.parent.mkdir()
    with Ledger.open(tmp_path / "run") as ledger:
        ledger.add_result("replay 1", bad)
        with pytest.raises(PromotionError, match="contradicts the simulator"):
            promote(ledger, target)
        assert promote(ledger, target, force=True).forced
        ledger.add_result("replay 2", good)
        version = promote(ledger, target)
        assert len(read_findings(ledger).replays) == 2
    assert version.replay == good["sentence"]
    assert not version.forced
    assert good["sentence"] in target.read_text()
    assert good["sentence"] in (target.parent / ".promoted" / f"{version.file_sha256}.json").read_text()


def test_pairs_alternate_and_go_into_the_ledger(outcome: RunOutcome, tmp_path: Path) -> None:
    """The bytes that a gateway is given are those that were evaluated."""
    shutil.copytree(outcome.folder, tmp_path / "run")
    orders: list[list[str]] = []

    def run_pair(scenario: Scenario, policies: list[str], seed: int, folder: Path, **rest: object) -> Fidelity:
        orders.append(list(policies))
        made = [replace(comparison(n + 1.0, 1.0), policy=policy) for n, policy in enumerate(policies)]
        return Fidelity(scenario.name, seed, 1.0, tuple(made))

    with Ledger.open(tmp_path / "run") as ledger:
        frozen = ledger.frozen()
        told = replay(ledger, pairs=4, run_pair=run_pair)
        assert ledger.result("replay 1")["sentence"] == told["sentence"]
    assert orders[0] == orders[1][::-1] == orders[2]
    source = Path(orders[0][0]).read_bytes()
    assert hashlib.sha256(source).hexdigest() == frozen.digest
