"""The policies of one pool: every slot with its hash and parameters, immutable, replaced as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.contract import (
    AutoscalingPolicy,
    BatchPolicy,
    Observer,
    RoutingPolicy,
    SchedulingPolicy,
    Slot,
)


@dataclass(slots=True, frozen=True)
class PolicyIdentity:
    """Which code with which parameters fills a slot."""

    name: str
    """Built-in name (``joint/head_room``) or file stem."""
    policy_hash: str
    """SHA-256 (hex) over the source bytes and the canonical parameters."""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, eq=False)
class PolicySet:
    """A slot left None is filled by the runner's built-in: fewest in flight, first come first served, no scaling."""

    generation: int
    """Grows by one with every load and every rollback; never used twice in a pool."""
    routing: RoutingPolicy | None = None
    scheduling: SchedulingPolicy | None = None
    autoscaling: AutoscalingPolicy | None = None
    batch: BatchPolicy | None = None
    observers: tuple[Observer, ...] = ()
    """Each distinct policy object of the set that learns, once."""
    identities: Mapping[Slot, PolicyIdentity] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    """Names of contract fields that appear in the policies' sources: what need not be brought up to date
    for this set is not."""
