"""Whether a call of a policy left its arguments as they were and let them go again."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from policies.contract import Candidate, Pool, Request, Variant, Worker
from policies.situations import EngineRequest, EngineView

_FIELDS: Mapping[type, tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind))
    for kind in (Request, Worker, Candidate, Pool, Variant, EngineRequest, EngineView)
}
_READERS: Mapping[type, Callable[[Any], tuple[Any, ...]]] = {
    kind: operator.attrgetter(*names) for kind, names in _FIELDS.items()
}


@dataclass(slots=True)
class Watched:
    """Whether a call left its arguments alone. Counting references finds every way of keeping one."""

    arguments: tuple[Any, ...]
    _objects: list[Any] = field(default_factory=list)
    _before: list[Any] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        _collect(self.arguments, self._objects, set())
        self._before = [_state(thing) for thing in self._objects]
        self._counts = self._count()

    def complaints(self) -> Iterable[str]:
        counts = self._count()
        if counts != self._counts:
            gc.collect()
            counts = self._count()
        for thing, before, count, counted in zip(self._objects, self._before, counts, self._counts, strict=True):
            if count > counted:
                yield f"keeps a {type(thing).__name__} it was given; copy the numbers and ids you need"
            if _state(thing) != before:
                yield f"changed a {type(thing).__name__} it was given"

    def _count(self) -> list[int]:
        return [sys.getrefcount(thing) for thing in self._objects]


def _collect(value: Any, found: list[Any], seen: set[int]) -> None:
    """The contract's objects, and the lists and mappings that hold them, each once."""
    names = _FIELDS.get(type(value), ())
    if id(value) in seen or not (names or isinstance(value, list | tuple | dict)):
        return
    seen.add(id(value))
    if not isinstance(value, tuple):
        found.append(value)
    parts = _READERS[type(value)](value) if names else value.values() if isinstance(value, dict) else value
    for part in parts:
        if not isinstance(part, int | float | str | None):
            _collect(part, found, seen)


def _state(thing: Any) -> object:
    if isinstance(thing, list):
        return tuple(map(id, thing))
    if isinstance(thing, dict):
        return tuple((key, id(value)) for key, value in thing.items())
    return _READERS[type(thing)](thing)
