"""Pools and policy sets as plain JSON data, for headers, records and checkpoints of the event log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from gateway.core.policy_set import PolicySet, PolicySource
from gateway.core.pool import PoolConfig

SetLoader = Callable[[str, int, tuple[PolicySource, ...]], PolicySet]
"""Pool, generation and sources of a set that was in place; ``sources`` is empty for one made by hand."""

_WITHOUT_POLICY_SET = tuple(field.name for field in fields(PoolConfig) if field.name != "policy_set")


def encode_pool(config: PoolConfig) -> dict[str, Any]:
    encoded = {name: getattr(config, name) for name in _WITHOUT_POLICY_SET}
    encoded["replicas"] = {name: list(bounds) for name, bounds in config.replicas.items()}
    encoded["policy_set"] = config.policy_set and encode_set(config.policy_set)
    return encoded


def encode_set(policy_set: PolicySet) -> dict[str, Any]:
    filled = (policy_set.routing, policy_set.scheduling, policy_set.autoscaling, policy_set.batch)
    builtin = not policy_set.observers and all(slot is None for slot in filled)
    return {
        "generation": policy_set.generation,
        "builtin": builtin,
        "sources": [asdict(source) for source in policy_set.sources],
    }


def decode_pool(encoded: Mapping[str, Any], load: SetLoader) -> PoolConfig:
    """ValueError, TypeError or KeyError where it is none."""
    values = {name: encoded[name] for name in _WITHOUT_POLICY_SET if name in encoded}  # an older log has fewer
    values["models"] = tuple(values["models"])
    values["replicas"] = {name: (low, high) for name, (low, high) in values["replicas"].items()}
    policy_set = encoded["policy_set"]
    return PoolConfig(**values, policy_set=policy_set and decode_set(values["name"], policy_set, load))


def decode_set(pool: str, encoded: Mapping[str, Any], load: SetLoader) -> PolicySet:
    if encoded["builtin"]:
        return PolicySet.builtin(encoded["generation"])
    sources = tuple(PolicySource(**{**source, "slots": tuple(source["slots"])}) for source in encoded["sources"])
    return load(pool, encoded["generation"], sources)
