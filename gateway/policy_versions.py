"""The policy sets of one pool that ran and are kept: what runs, what a rollback goes back to, what is shown of them."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from gateway.core.policy_set import PolicySet
from gateway.errors import PolicyRefusedError
from gateway.promoted import promotion_of
from policies.loader import PolicySpec

Origin = Literal["start", "load", "file", "reload", "rollback", "guard", "restored"]


@dataclass(frozen=True, slots=True)
class Version:
    """A set that ran, with the copy of its bytes that a rollback loads again."""

    policy_set: PolicySet
    text: str
    """The specs as they were asked for."""
    specs: tuple[PolicySpec, ...]
    """The same, pointing at the copies."""
    origin: Origin
    loaded_at: datetime
    folder: Path
    """Holds the copies."""

    @property
    def generation(self) -> int:
        return self.policy_set.generation

    def describe(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "specs": self.text,
            "origin": self.origin,
            "loaded_at": self.loaded_at.isoformat(timespec="milliseconds"),
            "slots": slots_of(self.policy_set),
            "promoted": promotions_of(self.policy_set),
        }


@dataclass(slots=True)
class PoolPolicies:
    """The versions of one pool that are kept, and which of them a rollback goes back through."""

    name: str
    max_kept: int
    kept: dict[int, Version] = field(default_factory=dict)
    """By generation, in the order they were loaded."""
    stack: list[int] = field(default_factory=list)
    """Generations; the last runs, the one before is what a rollback puts back. Empty: the built-in runs."""
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=64))
    next_generation: int = 1
    configured: str = ""
    """What the configuration names."""
    wanted: str = ""
    """The specs whose files are followed."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """By path, the SHA-256 that files of these specs must have: a followed one that changes is refused then."""
    files: dict[Path, str | None] = field(default_factory=dict)
    """Followed files with the hash last tried; None: it could not be read."""
    last_error: dict[str, str] | None = None

    def take_generation(self) -> int:
        self.next_generation += 1
        return self.next_generation - 1

    def keep(self, version: Version, below: list[int]) -> None:
        """``version`` runs from here on, over ``below``; the oldest versions and their copies go."""
        self.kept[version.generation] = version
        self.stack = [*below, version.generation]
        while len(self.kept) > self.max_kept:
            old = self.kept.pop(next(iter(self.kept)))
            self.stack = [generation for generation in self.stack if generation != old.generation]
            if all(v.folder != old.folder for v in self.kept.values()):
                shutil.rmtree(old.folder, ignore_errors=True)

    def went_back_to(self, generation: int) -> None:
        """The guard restored ``generation`` by itself; one that is not kept is the built-in."""
        if generation in self.stack:
            self.stack = self.stack[: self.stack.index(generation) + 1]
        else:
            self.stack = [generation] if generation in self.kept else []

    def describe(self) -> dict[str, Any]:
        return {
            "pool": self.name,
            "current": self.kept[self.stack[-1]].describe() if self.stack else None,
            "can_roll_back_to": self.stack[-2::-1],
            "followed_files": [str(path) for path in self.files],
            "last_error": self.last_error,
            "log": list(self.log),
        }


def promotions_of(policy_set: PolicySet) -> list[dict[str, Any]]:
    """The evidence that promoted policies of the set carry; their bytes were checked when they were loaded."""
    found = []
    for one in policy_set.sources:
        with suppress(PolicyRefusedError):
            promotion = promotion_of(one.source, one.name)
            if promotion is not None:
                found.append({**promotion.describe(), "policy": one.name, "hash": one.policy_hash})
    return found


def slots_of(policy_set: PolicySet) -> dict[str, Any]:
    """What fills each slot, for people and programs."""
    identities = policy_set.identities.items()
    return {slot: {"policy": i.name, "hash": i.policy_hash, "params": dict(i.params)} for slot, i in identities}
