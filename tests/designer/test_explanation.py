"""What is found out of a winner after the verdict, each on seeds of its own."""

from __future__ import annotations

from pathlib import Path

from designer.evaluations import Evaluator
from designer.executor import LocalExecutor
from designer.explanation import Extent, explained
from designer.ledger import FrozenRecord, Ledger, RunRecord
from designer.sandbox import Sandbox
from designer.sealed import Judge, Protocol
from designer.search import RunOutcome
from designer.subject import subject_of_source, subject_of_specs
from tests.support.small_scenario import small_scenario


def test_no_two_splits_share_a_seed(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        seeds: dict[str, set[int]] = {}
        for evaluation in ledger.evaluations():
            seeds.setdefault(evaluation.split, set()).add(evaluation.seed)
    assert seeds.keys() == {"train", "validation", "sealed", "ablation", "why"}
    assert len(set().union(*seeds.values())) == sum(map(len, seeds.values()))


def test_a_winner_that_cannot_be_explained_has_its_verdict_all_the_same(tmp_path: Path) -> None:
    scenario = small_scenario(num_requests=20)
    winner = subject_of_source('def create(rng):\n    raise ValueError("not today")\n', "winner")
    comparator = subject_of_specs("least_loaded+fcfs")
    record = RunRecord("r", 0.0, scenario.name, scenario.model_dump_json(), scenario.digest, {}, "secret")
    frozen = FrozenRecord(winner.digest, comparator.digest, "mean_response_time", 0.02, 0.01, 8, 1)
    said: list[str] = []
    with Ledger.create(tmp_path, record) as ledger, Sandbox(scenario, jobs=1) as sandbox:
        for subject in (winner, comparator):
            ledger.add_subject(subject)
        ledger.freeze(frozen)
        explained(
            ledger,
            Judge(Protocol(), "mean_response_time", "secret", ledger, Evaluator(ledger, sandbox, scenario.digest)),
            LocalExecutor(1),
            frozen,
            Extent(ablation_seeds=0, regime_seeds=0, why_seeds=1),
            program=None,
            rivals=(),
            deadline_seconds=30.0,
            say=said.append,
        )
        ((_, event),) = ledger.events("not explained")
    assert "not today" in event["reason"]
    assert said[-1].startswith("not explained: ")
