"""Which replicas come and go, and what they cost."""

from __future__ import annotations

from designer.simulator.fleet import plan_workers
from designer.simulator.policies import make_policy_set
from designer.simulator.pools import pool_config
from designer.simulator.replicas import Replicas, replica_bounds
from designer.simulator.scenario import DEFAULT_POOL
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import RequestArrived, WorkerDraining, WorkerJoined
from gateway.core.pool import PoolState
from gateway.mockworker.engine import PS_PER_SECOND
from tests.support.contended_scenario import contended_scenario

SCENARIO = contended_scenario(
    workers=[
        {"profile": "a10-llama3-8b", "count": 3, "variant": "a", "max_replicas": 6, "cold_start_seconds": 20.0},
        {"profile": "a10-llama3-8b", "variant": "fixed"},
    ]
)


def joined() -> tuple[Replicas, Dispatcher, PoolState]:
    plans = plan_workers(SCENARIO)
    dispatcher = Dispatcher([pool_config(SCENARIO, make_policy_set("round_robin", 1))])
    for plan in plans:
        dispatcher.handle(WorkerJoined(0.0, plan.worker_id, DEFAULT_POOL, plan.variant))
    return Replicas(SCENARIO, plans), dispatcher, dispatcher.pools[DEFAULT_POOL]


def test_only_bounded_variants_are_scaled() -> None:
    assert replica_bounds(SCENARIO) == {"a": (1, 6)}
    assert joined()[0].cold_start_ps == {"a": 20 * PS_PER_SECOND}


def test_more_are_started_and_the_latest_is_given_up_first() -> None:
    replicas, _, pool = joined()
    first, second = replicas.change(0, "a", 5, pool).started
    assert [first.plan.worker_id, second.plan.worker_id] == ["a10-llama3-8b-4", "a10-llama3-8b-5"]
    assert first.plan.variant == "a"
    assert replicas.change(0, "a", 4, pool) == ((), ())
    assert (first.cancelled, second.cancelled) == (False, True)


def test_the_emptiest_are_drained_the_newest_first_and_no_worker_twice() -> None:
    replicas, dispatcher, pool = joined()
    for number in range(4):  # one for each worker
        dispatcher.handle(RequestArrived(0.0, f"r{number}", ""))
    dispatcher.handle(RequestArrived(0.0, "r4", ""))  # and a second one for the first
    assert replicas.change(0, "a", 2, pool).drained == ("a10-llama3-8b-2",)
    dispatcher.handle(WorkerDraining(0.0, "a10-llama3-8b-2"))
    assert replicas.change(0, "a", 1, pool).drained == ("a10-llama3-8b-1",)


def test_a_replica_costs_from_when_it_was_asked_for_until_it_is_gone() -> None:
    replicas, _, pool = joined()
    second = PS_PER_SECOND
    start, given_up = replicas.change(10 * second, "a", 5, pool).started
    replicas.joined(start)
    replicas.change(15 * second, "a", 3, pool)
    assert given_up.cancelled
    replicas.left(20 * second, start.plan.worker_id)
    assert replicas.worker_seconds(100 * second) == 4 * 100 + 10 + 5
