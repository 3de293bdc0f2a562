"""Which executor a command line asks for, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from designer.executor import ExecutorError, LocalExecutor, Place, Placement, Runner, open_executor
from designer.history import history_digest
from designer.ledger import LEDGER_FILE, Ledger
from designer.sandbox import Evaluation, Sandbox, Task
from designer.search import Search, Watcher, new_ledger
from designer.simulator.scenario import Scenario
from designer.subject import subject_of_specs
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement("cloud"), "--executor cloud: must be one of local, ray"),
        (Placement(ray_address="auto"), "need --executor ray"),
        (Placement(allow_unconfined=True), "need --executor ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(placement: Placement, message: str) -> None:
    with pytest.raises(ExecutorError, match=message), open_executor(placement):
        pass


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_the_message_says_what_to_install() -> None:
    with pytest.raises(ExecutorError, match=r"pip install 'ranvier\[ray\]'"), open_executor(Placement("ray")):
        pass


def test_here_a_runner_is_a_sandbox_of_so_many_jobs() -> None:
    with open_executor(Placement(jobs=3)) as executor:
        assert executor.jobs == 3
        assert executor.places() == ()
        with executor.at(small_scenario(40), 60.0) as runner:
            (done,) = runner.run([Task(subject_of_specs("round_robin+fcfs"), 1)])
    assert done.status == "scored"


class Elsewhere(LocalExecutor):
    """Simulates in sandboxes that are not the run's own."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        super().__init__(2)
        self._layers = layers

    def places(self) -> tuple[Place, ...]:
        return (Place("node far", 2, self._layers),)

    @contextmanager
    def at(self, scenario: Scenario, deadline_seconds: float) -> Iterator[Runner]:  # type: ignore[override]
        with Sandbox(scenario, jobs=2, deadline_seconds=deadline_seconds) as sandbox:
            yield _Behind(sandbox)


class _Behind:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def run(self, tasks: Sequence[Task], on_done: Callable[[Evaluation], None] | None = None) -> list[Evaluation]:
        return self._sandbox.run(tasks, on_done)


def test_a_run_elsewhere_tells_the_same_history_and_who_confined_it(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, budget=12, control=False, ablation_seeds=0, regime_seeds=0)
    said: list[str] = []
    for name, executor in (("here", LocalExecutor(2)), ("there", Elsewhere(("process group", "rlimits")))):
        with new_ledger(tmp_path / name, small_scenario(), settings, secret="not so secret") as ledger:
            Search(ledger, executor=executor, watcher=Watcher(say=said.append)).run()
    here, there = (tmp_path / name / LEDGER_FILE for name in ("here", "there"))
    assert history_digest(here) == history_digest(there)
    assert "node far, 2 at a time: process group, rlimits" in said
    with Ledger.open(tmp_path / "there") as ledger:
        ((_, started),) = ledger.events("started")
    assert started["layers"] == ["process group", "rlimits"], "what not every place has does not count"
    assert started["places"] == ["node far, 2 at a time: process group, rlimits"]
