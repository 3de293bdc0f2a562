"""Shares tasks out among processes elsewhere, in batches of about a second, and bears the loss of any of them.

A batch that was lost with its process is done again by another, task by task, so that one that takes its process with
it is found; after ``MOST_LOSSES`` losses of its own it is a failed evaluation, as it would be in a sandbox here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from designer.executor import ExecutorError, Place, Runner
from designer.sandbox import Evaluation, Task
from designer.simulator.scenario import Scenario

BATCH_SECONDS = 1.0
MOST_LOSSES = 3
_GRACE_SECONDS = 60.0
"""For a batch beyond its deadlines, before its process is taken for lost: the start of a sandbox is in it."""
_SLOWER = {"together": 1.0, "lockstep": 2.0}
"""Share of the deadline that a simulation of the tier may take; see ``Sandbox``."""
_FIRST_GUESS = BATCH_SECONDS
_WEIGHT = 0.3
"""Of the latest simulation in the mean of their times."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process is asked for at a time."""

    scenario: Scenario
    digest: str
    """Of the scenario, trace files included."""
    deadline_seconds: float
    tasks: tuple[Task, ...]

    @property
    def limit_seconds(self) -> float:
        """The most that its simulations can take."""
        return _GRACE_SECONDS + sum(_SLOWER[task.tier] * self.deadline_seconds for task in self.tasks)


class Fleet(Protocol):
    """Processes elsewhere, numbered from 0; each does one batch at a time."""

    @property
    def size(self) -> int:
        """How many there were at the start."""

    def places(self) -> tuple[Place, ...]:
        """Where they are."""

    def begin(self, number: int, batch: Batch) -> None:
        """Have a process do a batch."""

    def wait(self, seconds: float) -> Mapping[int, Sequence[Mapping[str, Any]] | None]:
        """The answers of processes that are done, after at most so long; None: the process was lost.

        Raises:
            ExecutorError: one answered that it cannot do what it is asked.
        """

    def replace(self, number: int) -> bool:
        """End what is left of a process and start another in its place; False: there is no place for it.

        Raises:
            ExecutorError: the new one cannot be used.
        """

    def close(self) -> None:
        """End them all."""


class BatchExecutor:
    """An executor over a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._usable = set(range(fleet.size))
        self._pace = _Pace()

    @property
    def jobs(self) -> int:
        return self._fleet.size

    def places(self) -> tuple[Place, ...]:
        return self._fleet.places()

    @contextmanager
    def at(self, scenario: Scenario, deadline_seconds: float) -> Iterator[Runner]:
        yield _BatchRunner(
            self._fleet, self._usable, self._pace, Batch(scenario, scenario.digest, deadline_seconds, ())
        )

    def close(self) -> None:
        self._fleet.close()


class _Pace:
    """What a simulation takes, by tier."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(_SLOWER, _FIRST_GUESS)

    def learn(self, evaluation: Evaluation) -> None:
        tier = evaluation.task.tier
        self._seconds[tier] += _WEIGHT * (evaluation.wall_seconds - self._seconds[tier])

    def count(self, tasks: Sequence[Task]) -> int:
        """How many of them, from the first, are about a second's work; at least one."""
        total = 0.0
        for n, task in enumerate(tasks):
            total += self._seconds[task.tier]
            if total > BATCH_SECONDS and n:
                return n
        return len(tasks)


class _Work:
    """The tasks of one call: which are to be done, lost how often, done, told."""

    def __init__(self, tasks: Sequence[Task], pace: _Pace, on_done: Callable[[Evaluation], None] | None) -> None:
        self.tasks = tasks
        self._pace = pace
        self._on_done = on_done
        self._waiting = deque(range(len(tasks)))
        self._alone: dict[int, int] = {}
        """Losses of the tasks that are done one by one, because a batch with them was lost."""
        self._done: dict[int, Evaluation] = {}
        self._told = 0

    @property
    def ended(self) -> bool:
        return self._told == len(self.tasks)

    def evaluations(self) -> list[Evaluation]:
        return [self._done[n] for n in range(len(self.tasks))]

    def next(self, sharers: int) -> tuple[int, ...]:
        """The next batch: a second's worth, no more than a fair share, and one task alone where it has been lost."""
        if not self._waiting:
            return ()
        if self._waiting[0] in self._alone:
            return (self._waiting.popleft(),)
        most = math.ceil(len(self._waiting) / sharers)
        ahead = [n for n in list(self._waiting)[:most] if n not in self._alone]
        count = self._pace.count([self.tasks[n] for n in ahead])
        return tuple(self._waiting.popleft() for _ in range(count))

    def finished(self, places: Sequence[int], answers: Sequence[Mapping[str, Any]]) -> None:
        for n, answer in zip(places, answers, strict=True):
            self._done[n] = Evaluation(self.tasks[n], **answer)
            self._pace.learn(self._done[n])

    def lost(self, places: Sequence[int]) -> None:
        """They are done again, first; one that was lost alone too often has failed."""
        for n in reversed(places):
            losses = self._alone.get(n, 0) + (len(places) == 1)
            self._alone[n] = losses
            if losses < MOST_LOSSES:
                self._waiting.appendleft(n)
            else:
                reason = f"was lost with its process {losses} times"
                self._done[n] = Evaluation(self.tasks[n], "failed", reason=reason)

    def tell(self) -> None:
        """Call back for what is done, as far as all before it is done too."""
        while self._told in self._done:
            if self._on_done is not None:
                self._on_done(self._done[self._told])
            self._told += 1


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch on its way."""

    places: tuple[int, ...]
    """Of its tasks among all."""
    overdue: float
    """By the monotonic clock."""


class _BatchRunner:
    def __init__(self, fleet: Fleet, usable: set[int], pace: _Pace, batch: Batch) -> None:
        self._fleet = fleet
        self._usable = usable
        self._pace = pace
        self._batch = batch

    def run(self, tasks: Sequence[Task], on_done: Callable[[Evaluation], None] | None = None) -> list[Evaluation]:
        work = _Work(tasks, self._pace, on_done)
        flying: dict[int, _Flight] = {}
        try:
            while not work.ended:
                self._send(work, flying)
                self._receive(work, flying)
                work.tell()
        finally:
            for number in flying:  # an interrupted process owes an answer, which nobody is to take for another
                self._replace(number)
        return work.evaluations()

    def _send(self, work: _Work, flying: dict[int, _Flight]) -> None:
        for number in sorted(self._usable - flying.keys()):
            places = work.next(len(self._usable))
            if not places:
                return
            tasks = tuple(work.tasks[n] for n in places)
            batch = Batch(self._batch.scenario, self._batch.digest, self._batch.deadline_seconds, tasks)
            flying[number] = _Flight(places, time.monotonic() + batch.limit_seconds)
            self._fleet.begin(number, batch)

    def _receive(self, work: _Work, flying: dict[int, _Flight]) -> None:
        if not flying:
            raise ExecutorError("every node was lost; when there are others, designer resume goes on with the run")
        left = min(flight.overdue for flight in flying.values()) - time.monotonic()
        answers = dict(self._fleet.wait(max(0.0, left)))
        for number, flight in flying.items():
            if number not in answers and time.monotonic() > flight.overdue:
                answers[number] = None
        for number, answer in answers.items():
            places = flying.pop(number).places
            if answer is None:
                work.lost(places)
                self._replace(number)
            else:
                work.finished(places, answer)

    def _replace(self, number: int) -> None:
        if not self._fleet.replace(number):
            self._usable.discard(number)
