"""The policies of one pool: every slot with its hash and parameters, immutable, replaced as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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


@dataclass(slots=True, frozen=True)
class PolicySource:
    """All that is needed to load a policy again: what the event log keeps."""

    name: str
    policy_hash: str
    params: Mapping[str, Any]
    slots: tuple[Slot, ...]
    source: str
    """The module's text."""


class Loaded(Protocol):
    """What ``policies.loader`` makes of a file."""

    @property
    def policy(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def policy_hash(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    @property
    def reads(self) -> frozenset[str]: ...
    @property
    def source(self) -> str: ...


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
    for this set is not. Empty means not known, and everything is."""
    sources: tuple[PolicySource, ...] = ()
    """In the order they were loaded, which numbers their generators; empty for a set made by hand."""

    @staticmethod
    def builtin(generation: int = 0) -> PolicySet:
        """No policy at all."""
        return PolicySet(generation)

    @staticmethod
    def of(loaded: Sequence[Loaded], generation: int) -> PolicySet:
        """The set of these policies; two in one slot are a ValueError (the loader refuses them first)."""
        slots: dict[Slot, Any] = {}
        identities: dict[Slot, PolicyIdentity] = {}
        observers: list[Observer] = []
        for one in loaded:
            identity = PolicyIdentity(one.name, one.policy_hash, dict(one.params))
            for slot in one.slots:
                if slot == "observer":
                    if not any(observer is one.policy for observer in observers):
                        observers.append(one.policy)
                elif slot in slots:
                    raise ValueError(f"{slot}: filled by both {identities[slot].name} and {one.name}; keep one")
                else:
                    slots[slot] = one.policy
                    identities[slot] = identity
        return PolicySet(
            generation,
            routing=slots.get("routing"),
            scheduling=slots.get("scheduling"),
            autoscaling=slots.get("autoscaling"),
            batch=slots.get("batch"),
            observers=tuple(observers),
            identities=identities,
            reads=frozenset().union(*(one.reads for one in loaded)),
            sources=tuple(
                PolicySource(one.name, one.policy_hash, dict(one.params), tuple(one.slots), one.source)
                for one in loaded
            ),
        )


@dataclass(slots=True, frozen=True)
class Replaced:
    """A policy set that was replaced while good, and what its observers had been told was in flight."""

    policy_set: PolicySet
    in_flight: tuple[tuple[str, str], ...]
    """(request, worker)."""
