"""What an author is told of the policies it must beat: names, ideas, scores; of published designs the scores."""

from __future__ import annotations

from pathlib import Path

from designer.ledger import Ledger, RunRecord
from designer.proposers.llm.baselines import Baselines, read_baselines
from designer.sandbox import Evaluation, Task
from designer.simulator.scenario import Objective
from designer.subject import subject_of_specs
from tests.support.small_scenario import small_scenario


def evaluation(name: str, seed: int, score: float | None) -> Evaluation:
    task = Task(subject_of_specs(name), seed)
    return Evaluation(task, "failed" if score is None else "scored", score)


def test_every_baseline_has_a_line_and_every_rule_its_idea_once() -> None:
    known = Baselines(
        {
            "least_loaded+fcfs+target_tracking:target=16": {1: 2.0, 2: 4.0},
            "least_loaded+fcfs+target_tracking:target=64": {1: 1.0, 2: 2.0},
        }
    )
    text = known.text()
    assert "- least_loaded+fcfs+target_tracking:target=64: 0.500 times the reference" in text
    assert text.count("target_tracking: As many replicas as keep the requests per replica") == 1
    assert known.reference(Objective(metric="worker_seconds")) == (
        "least_loaded+fcfs+target_tracking:target=16 (its worker seconds on the train seeds: 2 to 4 s)"
    )


def test_a_published_design_has_neither_name_nor_idea() -> None:
    text = Baselines({"least_loaded+fcfs": {1: 2.0}, "joint/head_room+target_tracking:target=32": {1: 1.0}}).text()
    assert "- a published design+target_tracking:target=32: 0.500 times" in text
    assert "head" not in text


def test_of_a_file_of_the_users_only_its_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('"""A secret idea."""\n')
    text = Baselines({f"{tmp_path}/mine.py": {1: 2.0}}).text()
    assert text == "- mine.py: 1.000 times the reference"


def test_what_failed_is_not_shown(tmp_path: Path) -> None:
    names = ("least_loaded+fcfs", "round_robin+fcfs", "random+fcfs", "power_of_two+fcfs")
    run = RunRecord("r", 0.0, "small", small_scenario().model_dump_json(), "hash", {}, "s")
    with Ledger.create(tmp_path, run) as ledger:
        for name, scores in zip(names[1:3], ((3.0, None), (3.0, 5.0)), strict=True):
            ledger.add_subject(subject_of_specs(name))
            for seed, score in enumerate(scores):
                ledger.add_evaluation("train", "hash", evaluation(name, seed, score))
        known = read_baselines(ledger, names, {0: 2.0, 1: 4.0})
    assert known.scores == {"least_loaded+fcfs": {0: 2.0, 1: 4.0}, "random+fcfs": {0: 3.0, 1: 5.0}}
