"""Carries out what an autoscaling policy asks for in a simulation: replicas start, join, drain and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from designer.simulator.fleet import WorkerPlan
from designer.simulator.invariants import require
from designer.simulator.replicas import Replicas, Start
from designer.simulator.scenario import Scenario
from designer.simulator.worker import SimulatedWorker
from gateway.core.commands import SetReplicas
from gateway.core.events import WorkerDraining, WorkerJoined, WorkerLeft
from gateway.mockworker.engine import PS_PER_SECOND

if TYPE_CHECKING:
    from designer.simulator.world import World


class Actuator:
    def __init__(self, world: World, scenario: Scenario, plans: Sequence[WorkerPlan]) -> None:
        self._world = world
        self._replicas = Replicas(scenario, plans)
        self.is_used = bool(self._replicas.cold_start_ps)
        """Some variant has bounds."""
        self.draining: list[SimulatedWorker] = []
        self.worker_seconds = self._replicas.worker_seconds

    def set_replicas(self, now: int, command: SetReplicas) -> None:
        require(self.is_used, f"no variant of this scenario has bounds, and yet: {command}")
        world, pool = self._world, self._world.dispatcher.pools[command.pool]
        change = self._replicas.change(now, command.variant, command.num_replicas, pool)
        for start in change.started:
            world.at(now + self._replicas.cold_start_ps[command.variant], self._join, start)
        for worker_id in change.drained:
            world.at(now, self._drain, world.worker_by_id[worker_id])

    def remove_drained(self, now: int) -> None:
        """Those of ``draining`` that are done."""
        for worker in tuple(self.draining):
            plan, pools = worker.plan, self._world.dispatcher.pools
            if not worker.gone and not pools[plan.pool].workers[plan.worker_id].num_inflight_requests:
                worker.gone = True
                self.draining.remove(worker)
                self._replicas.left(now, plan.worker_id)
                self._world.hear(now, WorkerLeft(now / PS_PER_SECOND, plan.worker_id))

    def _join(self, now: int, start: Start) -> None:
        if start.cancelled:
            return
        self._replicas.joined(start)
        plan, world = start.plan, self._world
        worker = world.add_worker(plan)
        time = now / PS_PER_SECOND
        world.hear(now, WorkerJoined(time, plan.worker_id, plan.pool, plan.variant, metrics=plan.sizes(), replica=True))
        world.scrape(now, worker)

    def _drain(self, now: int, worker: SimulatedWorker) -> None:
        self.draining.append(worker)
        self._world.hear(now, WorkerDraining(now / PS_PER_SECOND, worker.plan.worker_id))
