"""Where the simulations of a run are made: in processes of this machine, or on the nodes of a Ray cluster.

Evaluations come in the order of the tasks, whatever finished first, so that the history of a run is the same whatever
the executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from designer.sandbox import Evaluation, Sandbox, Task
from designer.simulator.scenario import Scenario

EXECUTORS = ("local", "ray")
_LOCAL_JOBS = 2


class ExecutorError(Exception):
    """Simulations cannot be made there; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Another machine, or another process of this one, that simulates."""

    name: str
    jobs: int
    """Simulations at a time."""
    layers: tuple[str, ...]
    """What was found to confine a candidate there."""

    def __str__(self) -> str:
        return f"{self.name}, {self.jobs} at a time: {', '.join(self.layers)}"


class Runner(Protocol):
    """Simulates policies on one scenario."""

    def run(self, tasks: Sequence[Task], on_done: Callable[[Evaluation], None] | None = None) -> list[Evaluation]:
        """All tasks; the answers, and the calls of ``on_done``, in the order of the tasks.

        Raises:
            ExecutorError: there is no place left where they could be done.
        """


class Executor(Protocol):
    """Makes runners, one at a time."""

    @property
    def jobs(self) -> int:
        """Simulations at a time."""

    def places(self) -> tuple[Place, ...]:
        """Where candidates run besides this process's own sandbox."""

    def at(self, scenario: Scenario, deadline_seconds: float) -> AbstractContextManager[Runner]:
        """A runner whose simulations may take so many seconds of wall clock each."""

    def close(self) -> None:
        """End every process that was started."""


def elsewhere(
    executor: Executor, runner: Runner, scenario: Scenario, deadline_seconds: float
) -> AbstractContextManager[Runner]:
    """A runner on another scenario beside one that is in use, which does nothing meanwhile: it lends its processes,
    where it is this machine's own sandbox."""
    if isinstance(runner, Sandbox):
        return runner.elsewhere(scenario)
    return executor.at(scenario, deadline_seconds)


class LocalExecutor:
    """Sandboxes on this machine; their runners are ``designer.sandbox.Sandbox``."""

    def __init__(self, jobs: int = _LOCAL_JOBS) -> None:
        self._jobs = jobs

    @property
    def jobs(self) -> int:
        return self._jobs

    def places(self) -> tuple[Place, ...]:
        return ()

    def at(self, scenario: Scenario, deadline_seconds: float) -> Sandbox:
        return Sandbox(scenario, jobs=self._jobs, deadline_seconds=deadline_seconds)

    def close(self) -> None:
        """Every sandbox ended with its use."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which executor, as a command line says it."""

    executor: str = "local"
    jobs: int | None = None
    """Simulations at a time, in all; None: two on this machine, and as many as a cluster has processors."""
    ray_address: str | None = None
    """Of a cluster that runs already; None: one on this machine, for as long as it is needed."""
    allow_unconfined: bool = False
    """Nodes that have neither landlock nor seccomp are not refused."""

    def check(self) -> Placement:
        """Itself.

        Raises:
            ExecutorError: the options do not go together.
        """
        if self.executor not in EXECUTORS:
            raise ExecutorError(f"--executor {self.executor}: must be one of {', '.join(EXECUTORS)}")
        if self.executor == "local" and (self.ray_address is not None or self.allow_unconfined):
            raise ExecutorError("--ray-address and --allow-unconfined-nodes need --executor ray: add it")
        return self


@contextmanager
def open_executor(placement: Placement) -> Iterator[Executor]:
    """The executor, closed at the end whatever happens.

    Raises:
        ExecutorError: the options do not go together, Ray is not installed, or no node can be used.
    """
    executor = _made(placement.check())
    try:
        yield executor
    finally:
        executor.close()


def _made(placement: Placement) -> Executor:
    if placement.executor == "local":
        return LocalExecutor(placement.jobs or _LOCAL_JOBS)
    from designer.batches import BatchExecutor
    from designer.ray_fleet import RayFleet

    return BatchExecutor(RayFleet(placement))
