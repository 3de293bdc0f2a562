"""Finalists, frozen test and verdict, with scores from a table instead of simulations."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from designer.evaluations import Evaluator
from designer.ledger import FrozenRecord, Ledger, RunRecord, seed_of
from designer.sandbox import Evaluation, Sandbox, Task
from designer.sealed import Judge, Protocol, look_verdict
from designer.statistics import paired_effect
from designer.subject import Subject, subject_of_source, subject_of_specs

BASE, WEAK = subject_of_specs("least_loaded+fcfs"), subject_of_specs("random+fcfs")
SMALL = Protocol(train_seeds=2, validation_seeds=12, finalists=2, sealed_seeds=16)


class TableSandbox(Sandbox):
    """``factor(label)`` times the seed's own level, with noise of its own for each policy and seed."""

    def __init__(self, factors: dict[str, float], noise: float) -> None:
        self._factors = factors
        self._noise = noise
        self.tasks: list[Task] = []

    def run(self, tasks, on_done=None):  # type: ignore[no-untyped-def]
        for task in tasks:
            self.tasks.append(task)
            level = random.Random(task.seed).uniform(20, 150)
            wobble = random.Random(f"{task.seed}/{task.subject.label}").gauss(0, self._noise)
            factor = self._factors[task.subject.label]
            failed = factor < 0
            score = None if failed else level * factor * (2.718281828**wobble)
            done = Evaluation(task, "failed" if failed else "scored", score, reason="crashed" if failed else "")
            on_done(done)
        return []


def candidate(name: str) -> Subject:
    return subject_of_source(f"# {name}\n", name)


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., tuple[Judge, TableSandbox, Ledger]]:
    def make(
        factors: dict[str, float], noise: float = 0.05, protocol: Protocol = SMALL
    ) -> tuple[Judge, TableSandbox, Ledger]:
        sandbox = TableSandbox({BASE.label: 1.0, WEAK.label: 1.3, **factors}, noise)
        ledger = Ledger.create(tmp_path / "run", RunRecord("r", 0.0, "s", "{}", "hash", {}, "secret"))
        return Judge(protocol, "mean", "secret", ledger, Evaluator(ledger, sandbox, "hash")), sandbox, ledger

    return make


def test_the_best_finalist_is_frozen_against_the_best_baseline(judged) -> None:  # type: ignore[no-untyped-def]
    judge, sandbox, ledger = judged({"good": 0.6, "better": 0.5})
    frozen = judge.validate([candidate("good"), candidate("better")], [WEAK, BASE])
    assert frozen == FrozenRecord(
        candidate("better").digest, BASE.digest, "mean", SMALL.margin, SMALL.alpha, SMALL.sealed_seeds, SMALL.max_looks
    )
    assert ledger.frozen() == frozen
    tiers = {task.subject.label: task.tier for task in sandbox.tasks}
    assert tiers == {"good": "lockstep", "better": "lockstep", BASE.label: "together", WEAK.label: "together"}


def test_no_sealed_seed_is_used_before_the_freeze(judged) -> None:  # type: ignore[no-untyped-def]
    judge, sandbox, _ = judged({"good": 0.6})
    frozen = judge.validate([candidate("good")], [BASE])
    sealed = {seed_of("secret", "sealed", n, frozen.digest) for n in range(2 * SMALL.sealed_seeds)}
    assert sealed.isdisjoint(task.seed for task in sandbox.tasks)
    before = len(sandbox.tasks)
    assert judge.seal(frozen, [WEAK]) == "better"
    assert {task.seed for task in sandbox.tasks[before:]} <= sealed


def test_equals_are_not_called_better(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"same": 1.0})
    assert judge.validate([candidate("same")], [BASE]) is None
    assert ledger.frozen() is None
    assert ledger.result("validation")["winner"] is None


def test_less_than_the_margin_is_not_better(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"slightly": 0.99}, noise=0.0005)
    frozen = judge.validate([candidate("slightly")], [BASE])
    assert frozen is not None
    assert judge.seal(frozen, []) == "undecided"
    assert ledger.result("sealed 1")["p_value"] < 0.001
    assert ledger.result("sealed 2")["num_seeds"] == 2 * SMALL.sealed_seeds


def test_an_undecided_test_is_doubled_once_and_each_look_has_its_alpha(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"noisy": 0.85}, noise=0.2)
    frozen = FrozenRecord(candidate("noisy").digest, BASE.digest, "mean", 0.02, 0.01, 16, 2)
    ledger.add_subject(candidate("noisy"))
    ledger.add_subject(BASE)
    judge.seal(frozen, [])
    first, second = ledger.result("sealed 1"), ledger.result("sealed 2")
    assert first["verdict"] == "undecided"
    assert (first["num_seeds"], second["num_seeds"]) == (16, 32)
    assert first["alpha"] == second["alpha"] == 0.005
    assert ledger.result("sealed 3") is None


def test_a_winner_that_fails_on_a_sealed_seed_is_not_better(judged) -> None:  # type: ignore[no-untyped-def]
    judge, sandbox, ledger = judged({"fragile": 0.5})
    frozen = judge.validate([candidate("fragile")], [BASE])
    sandbox._factors["fragile"] = -1.0
    assert judge.seal(frozen, []) == "worse"
    assert ledger.result("sealed 1")["error"] == "the winner failed: crashed"
    assert ledger.result("sealed 2") is None, "it would fail on the same seeds again"


def test_a_comparator_that_fails_on_a_sealed_seed_decides_nothing(judged) -> None:  # type: ignore[no-untyped-def]
    judge, sandbox, ledger = judged({"good": 0.5})
    frozen = judge.validate([candidate("good")], [BASE])
    sandbox._factors[BASE.label] = -1.0
    assert judge.seal(frozen, [WEAK]) == "undecided"
    look = ledger.result("sealed 1")
    assert "the comparator least_loaded+fcfs failed, so nothing is claimed against it: crashed" in look["error"]
    assert "ratio" not in look
    assert ledger.result("sealed 2") is None


def test_a_baseline_that_fails_is_written_down_as_not_compared(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"good": 0.5, "tuned": -1.0, "shown": -1.0})
    earlier = {"label": "mine", "digest": "d", "failure": "slow"}
    frozen = judge.validate([candidate("good")], [BASE, candidate("tuned")], failed_before=[earlier])
    assert frozen.comparator == BASE.digest
    missing = ledger.result("validation")["not_compared"]
    assert [(row["label"], row["failure"]) for row in missing] == [("mine", "slow"), ("tuned", "crashed")]
    assert judge.seal(frozen, [candidate("shown")]) == "better"
    look = ledger.result("sealed 1")
    assert look["not_compared"] == missing
    assert [(row["label"], row["failure"]) for row in look["failed"]] == [("shown", "crashed")]


def test_without_a_baseline_there_is_no_claim(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"good": 0.5, "tuned": -1.0})
    assert judge.validate([candidate("good")], [candidate("tuned")]) is None
    assert ledger.result("validation")["error"] == "every baseline failed"
    assert ledger.result("validation")["not_compared"][0]["label"] == "tuned"


_NULL_DRAWS = 2_500
_NULLS = {
    "no difference, large spread": lambda rng, size: rng.normal(0.0, 1.0, size),
    "at the margin": lambda rng, size: rng.normal(math.log(0.98), 0.3, size),
    "at the margin, heavy tails": lambda rng, size: math.log(0.98) + 0.2 * rng.standard_t(3, size),
    "at the margin, skewed": lambda rng, size: math.log(0.98) + 0.3 * (rng.gamma(4.0, 0.5, size) - 2.0),
}


@pytest.mark.parametrize("null", _NULLS)
def test_the_sealed_protocol_seldom_calls_what_is_not_better_better(null: str) -> None:
    """Many runs of which none has a policy that is better by more than the margin: of these, under 1 % say so."""
    protocol = Protocol()
    rng = np.random.default_rng(20_260_101)
    runs = _NULLS[null](rng, (_NULL_DRAWS, protocol.sealed_seeds * protocol.max_looks))
    false = sum(_is_called_better(run, protocol) for run in _hopeful(runs, protocol))
    assert false / _NULL_DRAWS < protocol.alpha


def _hopeful(runs: Any, protocol: Protocol) -> Any:
    """Those with a t interval clear of the margin at some look: without that none is called better."""
    alpha, bar = protocol.alpha / protocol.max_looks, math.log(1.0 - protocol.margin)
    hopeful = np.zeros(len(runs), dtype=bool)
    for look in range(1, protocol.max_looks + 1):
        seen = runs[:, : protocol.sealed_seeds * look]
        error = seen.std(axis=1, ddof=1) / math.sqrt(seen.shape[1])
        hopeful |= seen.mean(axis=1) + stats.t.ppf(1.0 - alpha / 2, seen.shape[1] - 1) * error < bar
    return runs[hopeful]


def _is_called_better(run: Any, protocol: Protocol) -> bool:
    alpha = protocol.alpha / protocol.max_looks
    for look in range(1, protocol.max_looks + 1):
        seen = np.exp(run[: protocol.sealed_seeds * look])
        effect = paired_effect(seen, np.ones(len(seen)), 1.0 - alpha)
        verdict = look_verdict(effect, protocol.margin, alpha)
        if verdict != "undecided":
            return verdict == "better"
    return False


def test_controls_are_scored_and_reported_even_when_nothing_is_better(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"same": 1.0, "drawn": 0.9, "broken": -1.0})
    controls = {"control": candidate("drawn"), "tuned": candidate("broken")}
    assert judge.validate([candidate("same")], [BASE], controls) is None
    shown = ledger.result("validation")["controls"]
    assert 0.8 < shown["control"]["ratio"] < 1.0
    assert shown["tuned"]["failure"] == "crashed"


def test_validation_asks_a_one_sided_question(judged) -> None:  # type: ignore[no-untyped-def]
    """Five seeds that agree are enough for one finalist: 1/32."""
    few = Protocol(train_seeds=2, validation_seeds=5, finalists=1, sealed_seeds=16)
    assert few.problem() == ""
    judge, _, _ = judged({"good": 0.5}, protocol=few)
    assert judge.validate([candidate("good")], [BASE]) is not None


def test_a_finalist_that_fails_is_left_out(judged) -> None:  # type: ignore[no-untyped-def]
    judge, _, ledger = judged({"broken": -1.0, "good": 0.6})
    frozen = judge.validate([candidate("broken"), candidate("good")], [BASE])
    assert frozen.digest == candidate("good").digest
    assert [row["failure"] for row in ledger.result("validation")["failed"]] == ["crashed"]


@pytest.mark.parametrize(
    ("protocol", "fix"),
    [
        (Protocol(sealed_seeds=8), "sealed seeds can never show p < 0.005; take 9"),
        (Protocol(validation_seeds=4), "take 7, or fewer finalists"),
        (Protocol(finalists=0), "at least 1"),
        (Protocol(margin=1.5), "between 0 and 1"),
    ],
)
def test_a_test_that_cannot_succeed_is_refused(protocol: Protocol, fix: str) -> None:
    assert fix in protocol.problem()


def test_the_default_protocol_is_that_of_the_design() -> None:
    default = Protocol()
    assert default.problem() == ""
    assert (default.train_seeds, default.validation_seeds, default.finalists, default.sealed_seeds) == (8, 32, 5, 64)
    assert (default.margin, default.alpha, default.max_looks) == (0.02, 0.01, 2)
