"""What is evaluated: the exact bytes of one or more policy modules with their parameters, whatever they came from.

A file or a built-in is read once, here; from then on only these bytes are hashed, sent, run and stored.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from policies.contract import Slot
from policies.loader import (
    LoadedPolicy,
    Param,
    PolicyLoadError,
    PolicySpec,
    builtin_names,
    load_source,
    parse_specs,
    reads_of,
    resolve,
)
from policies.source_file import read_source
from policies.syntax import parse


@dataclass(frozen=True, slots=True)
class Part:
    """One module."""

    name: str
    source: str
    slots: tuple[Slot, ...] | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    trusted: bool = False
    """It is one of the policies that come with the package."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A policy set under evaluation."""

    label: str
    parts: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """SHA-256 (hex): of the bytes for a lone module without parameters, else of all bytes and parameters."""
        first = self.parts[0]
        if len(self.parts) == 1 and not first.params and first.slots is None:
            return hashlib.sha256(first.source.encode()).hexdigest()
        content = [[part.source, part.slots, dict(part.params)] for part in self.parts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def trusted(self) -> bool:
        return all(part.trusted for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def subject_of_source(source: str, label: str) -> Subject:
    """A candidate: one module with its own defaults."""
    return Subject(label, (Part(label, source),))


def subject_of_specs(text: str) -> Subject:
    """The set a spec text names, as its files are at this moment.

    Raises:
        PolicyLoadError: the text or a file cannot be read.
    """
    return Subject(text, tuple(_part(spec) for spec in parse_specs(text)))


def subject_from_json(data: Mapping[str, Any]) -> Subject:
    """What ``to_json`` gave."""
    parts = (
        Part(**{**part, "slots": None if part["slots"] is None else tuple(part["slots"])}) for part in data["parts"]
    )
    return Subject(data["label"], tuple(parts))


def load_subject(subject: Subject, seed: int) -> tuple[LoadedPolicy, ...]:
    """Execute the modules, as ``policies.loader.load_policies`` would with files of these bytes.

    Raises:
        PolicyLoadError: one does not load, or two claim a slot.
    """
    loaded = tuple(
        load_source(
            part.source.encode(),
            PolicySpec(f"{part.name}.py", part.slots, dict(part.params)),
            random.Random(f"{seed}/0/{n}"),
            path=f"{part.name}.py",
            name=part.name,
        )
        for n, part in enumerate(subject.parts)
    )
    _refuse_double_claims(loaded)
    return loaded


def fields_read(subject: Subject) -> frozenset[str]:
    """The contract fields whose names appear in the sources; found without running them."""
    return frozenset().union(*(reads_of(parse(part.source)) for part in subject.parts))


def _part(spec: PolicySpec) -> Part:
    path, name = resolve(spec.source)
    try:
        source = read_source(path).decode("utf-8")
    except OSError as error:
        raise PolicyLoadError(f"{path}: {error.strerror}; name a built-in or a readable .py file") from None
    except UnicodeDecodeError:
        raise PolicyLoadError(f"{path}: not UTF-8; save the file as UTF-8") from None
    return Part(name, source, spec.slots, dict(spec.params), trusted=name in builtin_names())


def _refuse_double_claims(loaded: Sequence[LoadedPolicy]) -> None:
    claimed: dict[str, str] = {}
    for policy in loaded:
        for slot in policy.slots:
            if slot != "observer" and slot in claimed:
                raise PolicyLoadError(f"{policy.name}: slot {slot} is already filled by {claimed[slot]}; keep one")
            claimed[slot] = policy.name
