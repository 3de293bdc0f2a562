"""Worker profiles: how fast one variant of worker is, as TOML in which every number names its source.

The step of an engine takes

    max(weights, fixed + token * T) + decode [if any] + decode_context * sum(context of decodes)
        + prefill_context * sum(p * (context + p / 2)) + host_step + host_sequence * sequences

where T is the tokens of the step, and each prefill chunk has p tokens after ``context`` computed ones.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from gateway.mockworker.engine import EngineConfig

_PS = {"ms": 10**9, "us": 10**6, "ns": 10**3}
_BUILT_IN = files("gateway.mockworker") / "profiles"


class ProfileError(Exception):
    """A profile that cannot be used; one line that names file, field and fix."""


@dataclass(frozen=True, slots=True)
class Note:
    """Where a number comes from."""

    source: str
    error: str = ""
    """Stated error, empty when the source states none."""


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """One variant of worker. Times in integer picoseconds."""

    name: str
    description: str
    engine: EngineConfig
    weights_ps: int = 0
    """The step's floor: reading the weights once."""
    fixed_ps: int = 0
    token_ps: int = 0
    """For each token of the step."""
    decode_ps: int = 0
    """Once if any request decodes."""
    decode_context_ps: int = 0
    """For each token of context of each decoding request, the one being made included."""
    prefill_context_ps: int = 0
    """For each pair of a prefilled token and a token it attends to."""
    host_step_ps: int = 0
    host_sequence_ps: int = 0
    """For each request in the step."""
    host_request_ps: int = 0
    """Once per request, between its arrival and the scheduler seeing it."""
    notes: Mapping[str, Note] | None = None
    """By field of the file: its source."""

    @property
    def floor_ps(self) -> int:
        """No step that computes anything is shorter."""
        return max(self.weights_ps, self.fixed_ps + self.token_ps)


_TIMES = {
    "weights_ms": "weights_ps",
    "fixed_ms": "fixed_ps",
    "token_us": "token_ps",
    "decode_ms": "decode_ps",
    "decode_context_ns": "decode_context_ps",
    "prefill_context_ns": "prefill_context_ps",
    "host_step_ms": "host_step_ps",
    "host_sequence_us": "host_sequence_ps",
    "host_request_ms": "host_request_ps",
}
_FLAGS: Mapping[str, type] = {
    "num_gpu_blocks": int,
    "block_size": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "long_prefill_token_threshold": int,
    "enable_prefix_caching": bool,
    "watermark": Decimal,
    "scheduling_policy": str,
    "reserve_full_isl": bool,
    "async_scheduling": bool,
    "max_model_len": int,
}


def profile_names() -> tuple[str, ...]:
    """The built-in profiles."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _BUILT_IN.iterdir() if entry.name.endswith("toml"))
    )


def load_profile(name_or_path: str | Path) -> WorkerProfile:
    """A built-in profile by name, or one from a file (anything with a ``/`` or ending in ``.toml``).

    Raises:
        ProfileError: no such profile, or the file breaks the schema.
    """
    text = str(name_or_path)
    if "/" in text or text.endswith(".toml"):
        path = Path(text)
        name = path.name.removesuffix(".toml")
        if path.exists() and not path.is_file():
            raise ProfileError(f"{text}: not a regular file; name a profile")
        try:
            content = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"{text}: cannot read the profile: {error}") from error
    elif text in profile_names():
        name, content = text, (_BUILT_IN / f"{text}.toml").read_text()
    else:
        raise ProfileError(f"{text}: no such profile; built in are {', '.join(profile_names())}, or give a path")
    return parse_profile(name, content, text)


def parse_profile(name: str, content: str, where: str = "profile") -> WorkerProfile:
    """A profile from the text of a file; ``where`` names it in errors.

    Raises:
        ProfileError: the text breaks the schema.
    """
    try:
        return _Reader(where).profile(name, tomllib.loads(content, parse_float=Decimal))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: not TOML: {error}") from error


class _Reader:
    """Reads one file strictly: every key known, every number with a source."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._notes: dict[str, Note] = {}
        self._sources: Mapping[str, Any] = {}

    def profile(self, name: str, table: Mapping[str, Any]) -> WorkerProfile:
        self._known("", table, ("description", "sources", "engine", "step"))
        self._sources = self._table(table, "sources")
        for key, source in self._sources.items():
            if not isinstance(source, str) or not source:
                raise self._error(f"sources.{key}", "must be a non-empty string")
        description = table.get("description")
        if not isinstance(description, str):
            raise self._error("description", "must be a string")
        engine = self._engine(self._table(table, "engine"))
        times = self._times(self._table(table, "step"))
        return WorkerProfile(name, description, engine, notes=self._notes, **times)

    def _engine(self, table: Mapping[str, Any]) -> EngineConfig:
        self._known("engine.", table, tuple(_FLAGS))
        if "num_gpu_blocks" not in table:
            raise self._error("engine.num_gpu_blocks", "is missing")
        flags = {key: self._quantity(f"engine.{key}", entry, _FLAGS[key]) for key, entry in table.items()}
        if "watermark" in flags:
            flags["watermark"] = float(flags["watermark"])
        try:
            return EngineConfig(**flags)
        except ValueError as error:
            raise self._error("engine", str(error)) from error

    def _times(self, table: Mapping[str, Any]) -> dict[str, int]:
        self._known("step.", table, tuple(_TIMES))
        times = {}
        for key, field in _TIMES.items():
            if key not in table:
                raise self._error(f"step.{key}", "is missing; write 0 if it costs nothing")
            value = self._quantity(f"step.{key}", table[key], Decimal)
            if not 0 <= value < 10**6:
                raise self._error(f"step.{key}", f"must be at least 0 and less than a million, not {value}")
            times[field] = round(value * _PS[key.rpartition("_")[2]])
        if not max(times["weights_ps"], times["fixed_ps"], times["host_step_ps"]):
            raise self._error("step", "a step must take time: weights_ms, fixed_ms or host_step_ms above 0")
        return times

    def _quantity(self, field: str, entry: object, kind: type) -> Any:
        """``{ value = …, source = "key of [sources]", error = "…" }``"""
        if not isinstance(entry, dict):
            raise self._error(field, 'must be a table: { value = …, source = "…" }')
        self._known(f"{field}.", entry, ("value", "source", "error"))
        source, error = entry.get("source"), entry.get("error", "")
        if not isinstance(source, str) or source not in self._sources:
            raise self._error(f"{field}.source", f"must be a key of [sources] ({', '.join(self._sources)})")
        if not isinstance(error, str):
            raise self._error(f"{field}.error", "must be a string")
        self._notes[field] = Note(self._sources[source], error)
        return self._value(f"{field}.value", entry.get("value"), kind)

    def _value(self, field: str, value: object, kind: type) -> Any:
        if kind is Decimal and type(value) is int:
            value = Decimal(value)
        if type(value) is not kind or (isinstance(value, Decimal) and not value.is_finite()):
            word = {int: "an integer", bool: "true or false", str: "a string", Decimal: "a number"}[kind]
            raise self._error(field, f"must be {word}")
        return value

    def _table(self, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        entry = table.get(key)
        if not isinstance(entry, dict):
            raise self._error(key, f"must be a table: [{key}]")
        return entry

    def _known(self, prefix: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        for key in table:
            if key not in keys:
                raise self._error(f"{prefix}{key}", f"is not known here; known are {', '.join(keys)}")

    def _error(self, field: str, problem: str) -> ProfileError:
        return ProfileError(f"{self._where}: {field}: {problem}")
