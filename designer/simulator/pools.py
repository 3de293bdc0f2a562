"""The pools of a scenario: what each is configured as, and the policies it starts with."""

from __future__ import annotations

from collections.abc import Mapping

from designer.simulator.counterfactual import changed_set
from designer.simulator.policies import PolicySource, make_policy_set
from designer.simulator.replicas import replica_bounds
from designer.simulator.scenario import DEFAULT_POOL, Scenario, ScenarioPool
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig


def evaluated_pools(scenario: Scenario) -> tuple[str, ...]:
    """Those without policies of their own."""
    return tuple(pool.name for pool in scenario.pools if not pool.policies) if scenario.pools else (DEFAULT_POOL,)


def make_policy_sets(scenario: Scenario, source: PolicySource, seed: int) -> dict[str, PolicySet]:
    """By pool, a new set: the pool's own policies, or those of ``source``.

    Raises:
        PolicyLoadError: the text, a file or a parameter is wrong.
    """
    own = {pool.name: pool.policies for pool in scenario.pools if pool.policies}
    return {
        name: make_policy_set(own[name], seed)
        if name in own
        else changed_set(make_policy_set(source, seed), scenario.counterfactual)
        for name in scenario.pool_names
    }


def pool_configs(scenario: Scenario, policy_sets: Mapping[str, PolicySet]) -> list[PoolConfig]:
    """In the scenario's order."""
    if not scenario.pools:
        return [pool_config(scenario, policy_sets[DEFAULT_POOL])]
    return [pool_config(scenario, policy_sets[pool.name], pool) for pool in scenario.pools]


def pool_config(scenario: Scenario, policy_set: PolicySet, pool: ScenarioPool | None = None) -> PoolConfig:
    """Of one pool; None: the only one of a scenario that declares none."""
    queue = scenario.queue
    return PoolConfig(
        name=pool.name if pool else DEFAULT_POOL,
        models=pool.models if pool else (),
        policy_set=policy_set,
        max_queue_requests=queue.max_requests,
        max_queue_prompt_tokens=queue.max_prompt_tokens,
        max_queue_seconds=queue.max_seconds,
        max_attempts=queue.max_attempts,
        replicas=replica_bounds(scenario, pool.name if pool else ""),
        scaling_interval_seconds=scenario.autoscaling.interval_seconds,
        scale_up_delay_seconds=scenario.autoscaling.up_delay_seconds,
        scale_down_delay_seconds=scenario.autoscaling.down_delay_seconds,
        start_timeout_seconds=scenario.autoscaling.start_timeout_seconds,
    )
