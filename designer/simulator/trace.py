"""Reads a JSONL trace: one request a line, in Mooncake's field names. A bad line is an error that names it.

Needed: ``timestamp`` (milliseconds from the start), ``input_length``, ``output_length`` (tokens).
Optional: ``hash_ids`` (one id for each 512 tokens of the prompt: equal ids at the start of two prompts stand for the
same text), ``model``, ``tenant``, ``session_id``, ``priority`` (higher first), ``max_tokens``, ``ttft_slo_ms``,
``request_id``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from designer.simulator.draws import Floats, Ints

BLOCK_TOKENS = 512
"""Prompt tokens that one entry of ``hash_ids`` stands for."""

Chunks = tuple[tuple[int, int], ...]


class TraceError(ValueError):
    """A trace that cannot be used; one line that names file, line number and field."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Columns, in order of time."""

    seconds: Floats
    num_prompt_tokens: Ints
    num_output_tokens: Ints
    max_tokens: Ints
    """0: not given."""
    priorities: Ints
    ttft_slos: Floats
    """Seconds; NaN: not given."""
    tenant: Ints
    tenants: tuple[str, ...]
    session_ids: tuple[str | None, ...]
    """Empty: no record has one."""
    models: tuple[str, ...]
    """Empty: no record has one."""
    prefix_chunks: tuple[Chunks, ...]
    """Empty: no record has ``hash_ids``."""


def read_trace(path: str | Path) -> Trace:
    """All requests of the file, stably sorted by time.

    Raises:
        TraceError: the file cannot be read, or a line of it is wrong.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    if not lines:
        raise TraceError(f"{path}: empty")
    records = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    records.sort(key=lambda record: float(record["timestamp"]))
    return _columns(records)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_integer(item) for item in value)


_Check = Callable[[Any], bool]
_NEEDED: dict[str, tuple[_Check, str]] = {
    "timestamp": (_is_number, "a number of milliseconds, at least 0"),
    "input_length": (_is_count, "a whole number of tokens, at least 1"),
    "output_length": (_is_count, "a whole number of tokens, at least 1"),
}
_OPTIONAL: dict[str, tuple[_Check, str]] = {
    "hash_ids": (_is_ids, "a list of whole numbers"),
    "model": (_is_text, "a text"),
    "tenant": (_is_text, "a text"),
    "session_id": (_is_text, "a text"),
    "request_id": (_is_text, "a text"),
    "priority": (_is_integer, "a whole number"),
    "max_tokens": (_is_count, "a whole number of tokens, at least 1"),
    "ttft_slo_ms": (_is_number, "a number of milliseconds, at least 0"),
}
_FIELDS = _NEEDED | _OPTIONAL


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"{where}: not valid JSON: {error.msg}") from None
    if not isinstance(record, dict):
        raise TraceError(f"{where}: not a JSON object")
    for name in _NEEDED:
        if name not in record:
            raise TraceError(f"{where}: {name}: missing")
    for name, value in record.items():
        _check_field(name, value, where)
    return record


def _check_field(name: str, value: Any, where: str) -> None:
    if name not in _FIELDS:
        raise TraceError(f"{where}: {name}: unknown field (known: {', '.join(_FIELDS)})")
    check, wanted = _FIELDS[name]
    if not check(value) and not (value is None and name in _OPTIONAL):
        raise TraceError(f"{where}: {name}: must be {wanted}")


def _columns(records: list[dict[str, Any]]) -> Trace:
    names = [str(record.get("tenant") or "default") for record in records]
    tenants = tuple(sorted(set(names)))
    index = {name: number for number, name in enumerate(tenants)}
    return Trace(
        seconds=np.array([record["timestamp"] for record in records], dtype=np.float64) / 1000.0,
        num_prompt_tokens=_integers(records, "input_length"),
        num_output_tokens=_integers(records, "output_length"),
        max_tokens=_integers(records, "max_tokens"),
        priorities=_integers(records, "priority"),
        ttft_slos=np.array([_slo_seconds(record) for record in records], dtype=np.float64),
        tenant=np.array([index[name] for name in names], dtype=np.int64),
        tenants=tenants,
        session_ids=_texts(records, "session_id"),
        models=tuple(text or "" for text in _texts(records, "model")),
        prefix_chunks=_chunks(records),
    )


def _integers(records: list[dict[str, Any]], name: str) -> Ints:
    return np.array([record.get(name) or 0 for record in records], dtype=np.int64)


def _slo_seconds(record: dict[str, Any]) -> float:
    value = record.get("ttft_slo_ms")
    return float("nan") if value is None else float(value) / 1000.0


def _texts(records: list[dict[str, Any]], name: str) -> tuple[str | None, ...]:
    texts = tuple(record.get(name) for record in records)
    return texts if any(texts) else ()


def _chunks(records: list[dict[str, Any]]) -> tuple[Chunks, ...]:
    if not any(record.get("hash_ids") for record in records):
        return ()
    return tuple(_chunks_of(record) for record in records)


def _chunks_of(record: dict[str, Any]) -> Chunks:
    """Only whole blocks: the last id of a prompt usually stands for a part of one, which nobody else can share."""
    whole = record["input_length"] // BLOCK_TOKENS
    chunks, key = [], 0
    for index, block in enumerate((record.get("hash_ids") or [])[:whole], start=1):
        key = _key(key, block)
        chunks.append((key, index * BLOCK_TOKENS))
    return tuple(chunks)


def _key(before: int, block: int) -> int:
    """A key that covers all blocks before it, whether or not the trace's own ids do."""
    return int.from_bytes(hashlib.blake2b(f"{before}/{block}".encode(), digest_size=8).digest(), "little")
