"""Traces: one request a line of JSON, in Mooncake's field names. A bad line is an error that names line and field.

Needed: ``timestamp`` (milliseconds from the start, never going backwards), ``input_length`` and ``output_length``
(tokens). Optional: ``hash_ids`` (one id for each 512 tokens of the prompt; equal ids at the start of two prompts stand
for the same text), ``model``, ``tenant``, ``session_id``, ``priority`` (higher first), ``max_tokens``,
``ttft_slo_ms``, ``request_id``.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, cast

import orjson

BLOCK_TOKENS = 512
"""Prompt tokens that one entry of ``hash_ids`` stands for."""


class TraceError(ValueError):
    """A trace that cannot be used: one line that names the file, the line and the field."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace."""

    timestamp: float
    """Milliseconds from the start of the trace."""
    input_length: int
    output_length: int
    """The true length of the answer; a client does not know it. At least 1, as ``input_length``."""
    hash_ids: tuple[int, ...] | None = None
    model: str | None = None
    tenant: str | None = None
    session_id: str | None = None
    priority: int | None = None
    max_tokens: int | None = None
    ttft_slo_ms: float | None = None
    request_id: str | None = None


def read_trace(path: str | Path) -> Iterator[TraceRequest]:
    """The requests of a file (plain or gzipped), as they are read.

    Raises:
        TraceError: the file cannot be read, is empty, or has a bad line.
    """
    number, before = 0, 0.0
    with open_input(path) as stream:
        for number, line in enumerate(stream, start=1):
            request = parse_line(line, f"{path}:{number}")
            if request.timestamp < before:
                raise TraceError(f"{path}:{number}: timestamp: {request.timestamp:g} is before the line above; sort it")
            before = request.timestamp
            yield request
    if number == 0:
        raise TraceError(f"{path}: empty; a trace has at least one request")


def write_trace(path: str | Path, requests: Iterable[TraceRequest]) -> int:
    """Write one line a request; the number written. A path ending in ``.gz`` is compressed.

    Raises:
        TraceError: the file cannot be written.
    """
    count = 0
    try:
        with gzip.open(path, "wb") if str(path).endswith(".gz") else Path(path).open("wb") as stream:
            for request in requests:
                stream.write(encode(request) + b"\n")
                count += 1
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror}") from None
    return count


def encode(request: TraceRequest) -> bytes:
    """One line without its end; what is None is left out, whole milliseconds are integers."""
    record = {name: value for name in _NAMES if (value := getattr(request, name)) is not None}
    if float(request.timestamp).is_integer():
        record["timestamp"] = int(request.timestamp)
    return orjson.dumps(record)


def parse_line(line: bytes, where: str) -> TraceRequest:
    """One line of a trace.

    Raises:
        TraceError: it is not an object, lacks a field, or has one that is unknown or of the wrong kind.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise TraceError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise TraceError(f"{where}: not a JSON object, as in {_EXAMPLE}")
    for name in ("timestamp", "input_length", "output_length"):
        if name not in record:
            raise TraceError(f"{where}: {name}: missing; a line looks like {_EXAMPLE}")
    return TraceRequest(**{name: _checked(name, value, where) for name, value in record.items()})


@contextmanager
def open_input(path: str | Path) -> Iterator[IO[bytes]]:
    """A file, or what a ``.gz`` file holds.

    Raises:
        TraceError: it cannot be read, or its compression is broken.
    """
    try:
        with Path(path).open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=plain)) if compressed else plain
    except (EOFError, zlib.error, OSError) as error:
        raise TraceError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


_NAMES = tuple(field.name for field in fields(TraceRequest))
_EXAMPLE = '{"timestamp": 0, "input_length": 100, "output_length": 20}'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_integer, value))


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "timestamp": (_is_number, "milliseconds, a number of at least 0"),
    "input_length": (_is_count, "tokens, a whole number of at least 1"),
    "output_length": (_is_count, "tokens, a whole number of at least 1"),
    "hash_ids": (_is_ids, "a list of whole numbers"),
    "model": (_is_text, "printable text of 1 to 256 characters"),
    "tenant": (_is_text, "printable text of 1 to 256 characters"),
    "session_id": (_is_text, "printable text of 1 to 256 characters"),
    "priority": (_is_integer, "a whole number"),
    "max_tokens": (_is_count, "tokens, a whole number of at least 1"),
    "ttft_slo_ms": (_is_number, "milliseconds, a number of at least 0"),
    "request_id": (_is_text, "printable text of 1 to 256 characters"),
}


def _checked(name: str, value: Any, where: str) -> Any:
    if name not in _CHECKS:
        raise TraceError(f"{where}: {name}: unknown field; the fields are {', '.join(_NAMES)}")
    check, wanted = _CHECKS[name]
    if not check(value):
        raise TraceError(f"{where}: {name}: must be {wanted}, not {value!r:.60}")
    return tuple(value) if name == "hash_ids" else value
