"""The actuator of a simulation: which replicas are started and stopped to reach the number asked for, and their cost.

A replica costs worker-seconds from the moment it is asked for, through its cold start and its draining, until it is
gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from designer.simulator.fleet import WorkerPlan
from designer.simulator.scenario import Scenario
from gateway.core.pool import PoolState
from gateway.mockworker.engine import PS_PER_SECOND


@dataclass(slots=True, eq=False)
class Start:
    """A replica on its way."""

    plan: WorkerPlan
    asked: int
    """Picoseconds."""
    cancelled: bool = False


class Change(NamedTuple):
    """What brings a variant to the number asked for."""

    started: tuple[Start, ...]
    drained: tuple[str, ...]
    """Workers that take nothing new from here on."""


class Replicas:
    """The replicas of all variants that have bounds."""

    def __init__(self, scenario: Scenario, plans: Sequence[WorkerPlan]) -> None:
        self.cold_start_ps = {
            workers.variant: round(workers.cold_start_seconds * PS_PER_SECOND)
            for workers in scenario.workers
            if workers.max_replicas is not None
        }
        self._templates = {plan.variant: plan for plan in reversed(plans)}
        self._num_named = len(plans)
        self._starting: dict[str, list[Start]] = {variant: [] for variant in self.cold_start_ps}
        self._since = {plan.worker_id: 0 for plan in plans}
        self._spent: dict[str, int] = {plan.worker_id: 0 for plan in plans}

    def change(self, now: int, variant: str, target: int, pool: PoolState) -> Change:
        """The latest started are the first to be given up; then the workers with least in flight, the newest first."""
        starting = self._starting[variant]
        present = [w for w in pool.workers.values() if w.variant == variant and not w.draining]
        missing = target - len(present) - len(starting)
        started = tuple(self._start(now, variant) for _ in range(missing))
        for _ in range(min(-missing, len(starting))):
            given_up = starting.pop()
            given_up.cancelled = True
            self.left(now, given_up.plan.worker_id)
            missing += 1
        present.reverse()
        present.sort(key=lambda worker: worker.num_inflight_requests)
        return Change(started, tuple(worker.worker_id for worker in present[: max(0, -missing)]))

    def joined(self, start: Start) -> None:
        self._starting[start.plan.variant].remove(start)

    def left(self, now: int, worker_id: str) -> None:
        """It costs nothing from here on."""
        self._spent[worker_id] = now - self._since.pop(worker_id)

    def worker_seconds(self, now: int) -> float:
        """Of all workers up to ``now``, those that are gone included."""
        return (sum(self._spent.values()) + sum(now - since for since in self._since.values())) / PS_PER_SECOND

    def _start(self, now: int, variant: str) -> Start:
        template = self._templates[variant]
        start = Start(replace(template, worker_id=f"{template.profile.name}-{self._num_named}"), now)
        self._num_named += 1
        self._starting[variant].append(start)
        self._since[start.plan.worker_id] = now
        return start


def replica_bounds(scenario: Scenario, pool: str = "") -> Mapping[str, tuple[int, int]]:
    """By variant, fewest and most; only variants that are scaled.

    Args:
        pool: of which pool; empty where the scenario declares none.
    """
    return {
        workers.variant: (workers.min_replicas, workers.max_replicas)
        for workers in scenario.workers
        if workers.max_replicas is not None and workers.pool == pool
    }
