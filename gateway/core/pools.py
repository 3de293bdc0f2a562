"""All pools of a dispatcher together: which takes a model, and when time matters to one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.core.pool import PoolConfig, PoolState


def next_due(pools: Iterable[PoolState]) -> float | None:
    """When the first of them waits for time to pass; None when none does."""
    times = [time for pool in pools for time in (pool.scaling.next_due, pool.rest_until)]
    times += [first.limit for pool in pools if (first := pool.queue.next_limit())]
    return min((time for time in times if time is not None), default=None)


def prefixes_are_read(pools: Iterable[PoolState]) -> bool:
    """Whether a policy in place looks at what workers have cached: only then are keys of prompts worth making."""
    return any(pool.needs.cached and pool.policy_set.routing is not None for pool in pools)


def by_model(pools: Mapping[str, PoolState]) -> dict[str, PoolState]:
    """The pool that names each model; with a single pool, that is also where a request goes which names none.

    Raises:
        ValueError: two name the same.
    """
    owners: dict[str, PoolState] = {}
    for name, pool in pools.items():
        for model in pool.config.models:
            if model in owners:
                raise ValueError(
                    f"model {model!r} is named by pools {owners[model].config.name!r} and {name!r}; keep one"
                )
            owners[model] = pool
    if len(pools) == 1:
        owners[""] = next(iter(pools.values()))
    return owners


def default_pool(pools: Mapping[str, PoolState]) -> PoolState | None:
    """The pool that takes any model no other names.

    Raises:
        ValueError: more than one does.
    """
    takers = [pool for pool in pools.values() if not pool.config.models]
    if len(takers) > 1:
        raise ValueError(f"pools {', '.join(pool.config.name for pool in takers)} name no models; at most one may")
    return takers[0] if takers else None


def check_known(pools: Mapping[str, PoolState], name: str) -> None:
    """ValueError for a pool that is not configured."""
    if name not in pools:
        raise ValueError(f"pool {name!r} is not configured; known: {', '.join(pools)}")


def check_same(pools: Mapping[str, PoolState], configs: Iterable[PoolConfig]) -> None:
    """ValueError when these are configurations of others than the pools there are."""
    if unknown := {config.name for config in configs} ^ pools.keys():
        raise ValueError(f"pools {', '.join(sorted(unknown))}: a pool comes and goes with the dispatcher only")
