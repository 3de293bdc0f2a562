"""The result of a simulation that has ended, checked against everything that must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from designer.simulator.invariants import check_dispatcher, check_engines, check_queue, check_requests, check_steps
from designer.simulator.records import make_result
from designer.simulator.results import SimulationResult

if TYPE_CHECKING:
    from designer.simulator.scenario import Scenario
    from designer.simulator.workload import RequestColumns
    from designer.simulator.world import World


def make_checked_result(world: World, scenario: Scenario, columns: RequestColumns, seed: int) -> SimulationResult:
    """Of a world that was run.

    Raises:
        InvariantViolation: the run broke a rule that no policy may break.
    """
    guards = [pool.guard for pool in world.dispatcher.pools.values()]
    result = make_result(
        world.records,
        columns,
        seed=seed,
        objective=scenario.objective,
        workers=world.worker_ids,
        counters={
            "num_events": world.dispatcher.num_events,
            "num_policy_failures": sum(sum(guard.num_failures.values()) for guard in guards),
            "policy_failure": next((guard.last_failure for guard in guards if guard.last_failure), ""),
            "num_sets_retired": world.num_retired,
            "num_failed_dispatches": world.outages.num_failed_dispatches,
            "num_retries": sum(max(0, record.num_dispatches - 1) for record in world.records),
            "worker_seconds": world.actuator.worker_seconds(max(record.ended for record in world.records)),
        },
    )
    _check(world, scenario, result)
    return result


def _check(world: World, scenario: Scenario, result: SimulationResult) -> None:
    most = np.array([worker.plan.config.max_request_tokens for worker in world.workers], dtype=np.int64)
    check_requests(result, np.where(result.worker >= 0, most[result.worker], 0))
    floors = np.array([worker.plan.profile.floor_ps for worker in world.workers], dtype=np.int64)
    check_steps(result, np.where(result.worker >= 0, floors[result.worker], 0))
    check_queue(result, scenario.queue.max_seconds, scenario.queue.tick_seconds)
    made_before = sum(worker.num_made_before for worker in world.workers)
    lost = sum(record.num_lost_tokens for record in world.records)
    check_engines([worker.engine for worker in world.workers], result.made, world.now, made_before - lost)
    for pool in world.dispatcher.pools.values():
        check_dispatcher(pool)
