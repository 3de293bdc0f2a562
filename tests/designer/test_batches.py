"""Batches among processes that may be lost: what is asked of whom, how often, and in which order it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from designer.batches import MOST_LOSSES, Batch, BatchExecutor
from designer.executor import ExecutorError, Place
from designer.sandbox import Evaluation, Task
from designer.subject import Subject, subject_of_source
from tests.support.small_scenario import small_scenario

POLICY = subject_of_source("def create(rng): ...", "policy")
KILLER = subject_of_source("def create(rng): 1 / 0", "killer")


class ScriptedFleet:
    """Does batches at once, the latest begun first; ``lose`` says which are lost, by what they hold."""

    def __init__(self, size: int = 2, seconds: float = 0.4, lose: Sequence[int] = (), room: int = 100) -> None:
        self.size = size
        self.batches: list[tuple[int, ...]] = []
        self.replaced: list[int] = []
        self.closed = False
        self._seconds = seconds
        self._lose = list(lose)
        self._room = room
        self._begun: dict[int, Batch] = {}

    def places(self) -> tuple[Place, ...]:
        return (Place("node a", self.size, ("rlimits",)),)

    def begin(self, number: int, batch: Batch) -> None:
        assert number not in self._begun, "one batch at a time"
        self._begun[number] = batch
        self.batches.append(tuple(task.seed for task in batch.tasks))

    def wait(self, seconds: float) -> Mapping[int, Sequence[Mapping[str, Any]] | None]:
        number, batch = self._begun.popitem()
        seeds = [task.seed for task in batch.tasks]
        if any(task.subject.label == "killer" for task in batch.tasks):
            return {number: None}
        for seed in seeds:
            if seed in self._lose:
                self._lose.remove(seed)
                return {number: None}
        return {number: [self._answer(seed) for seed in seeds]}

    def _answer(self, seed: int) -> Mapping[str, Any]:
        return {"status": "scored", "score": float(seed), "wall_seconds": self._seconds}

    def replace(self, number: int) -> bool:
        self._begun.pop(number, None)
        self.replaced.append(number)
        self._room -= 1
        return self._room >= 0

    def close(self) -> None:
        self.closed = True


def tasks(count: int, subject: Subject = POLICY) -> list[Task]:
    return [Task(subject, seed) for seed in range(count)]


def run(fleet: ScriptedFleet, wanted: Sequence[Task]) -> tuple[list[Evaluation], list[Evaluation]]:
    told: list[Evaluation] = []
    with BatchExecutor(fleet).at(small_scenario(), 60.0) as runner:
        return runner.run(wanted, told.append), told


def test_answers_and_calls_are_in_the_order_of_the_tasks_whoever_was_first() -> None:
    done, told = run(ScriptedFleet(size=3), tasks(20))
    assert [evaluation.score for evaluation in done] == [float(n) for n in range(20)]
    assert told == done


def test_batches_grow_to_about_a_second_and_to_no_more_than_a_fair_share() -> None:
    quick = ScriptedFleet(seconds=0.05)
    run(quick, tasks(200))
    sizes = [len(batch) for batch in quick.batches]
    assert sizes[:2] == [1, 1], "at first nobody knows how long one takes"
    assert 15 <= max(sizes) <= 20
    assert sizes[-1] == 1, "nobody is left with much while the others wait"
    slow = ScriptedFleet(seconds=3.0)
    run(slow, tasks(10))
    assert {len(batch) for batch in slow.batches} == {1}


def test_what_was_lost_with_a_process_is_done_by_another_and_told_once() -> None:
    fleet = ScriptedFleet(seconds=0.05, lose=[40])
    done, told = run(fleet, tasks(60))
    assert [evaluation.score for evaluation in done] == [float(n) for n in range(60)]
    assert told == done
    assert len(fleet.replaced) == 1
    lost = next(batch for batch in fleet.batches if 40 in batch)
    assert len(lost) > 1
    assert all((seed,) in fleet.batches for seed in lost), "one by one, to find the one that does it"


def test_one_that_takes_its_process_with_it_fails_and_no_other_does() -> None:
    wanted = [*tasks(5), Task(KILLER, 5), *(Task(POLICY, seed) for seed in range(6, 30))]
    fleet = ScriptedFleet(seconds=0.05)
    done, _ = run(fleet, wanted)
    assert [n for n, evaluation in enumerate(done) if evaluation.status == "failed"] == [5]
    assert done[5].reason == f"was lost with its process {MOST_LOSSES} times"
    assert len(fleet.replaced) <= MOST_LOSSES + 1


def test_a_process_without_a_successor_is_done_without_and_with_none_left_it_says_so() -> None:
    done, _ = run(ScriptedFleet(size=2, lose=[3], room=0), tasks(12))
    assert len(done) == 12
    with pytest.raises(ExecutorError, match="designer resume"):
        run(ScriptedFleet(size=1, lose=[3], room=0), tasks(12))


class Interrupted(Exception):
    pass


def test_after_an_interruption_nobody_owes_an_answer_to_the_next() -> None:
    fleet = ScriptedFleet(size=2)
    executor = BatchExecutor(fleet)

    def stop(_: Evaluation) -> None:
        raise Interrupted

    with executor.at(small_scenario(), 60.0) as runner:
        with pytest.raises(Interrupted):
            runner.run(tasks(8), stop)
        assert [evaluation.score for evaluation in runner.run(tasks(3))] == [0.0, 1.0, 2.0]
    executor.close()
    assert fleet.closed


def test_a_batch_may_take_its_deadlines_together_and_lockstep_twice() -> None:
    one = Batch(small_scenario(), "", 10.0, (Task(POLICY, 1),))
    two = Batch(small_scenario(), "", 10.0, (Task(POLICY, 1), Task(POLICY, 1, "lockstep")))
    assert two.limit_seconds - one.limit_seconds == 20.0


class SilentFleet(ScriptedFleet):
    """Its first process never answers."""

    def wait(self, seconds: float) -> Mapping[int, Sequence[Mapping[str, Any]] | None]:
        return super().wait(seconds) if self.replaced else {}


def test_a_process_that_is_not_heard_of_is_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("designer.batches._GRACE_SECONDS", 0.0)
    fleet = SilentFleet(size=1)
    with BatchExecutor(fleet).at(small_scenario(), 0.01) as runner:
        assert [evaluation.score for evaluation in runner.run(tasks(2))] == [0.0, 1.0]
    assert fleet.replaced == [0]
