"""Raw records: one line of JSON for each request, written as it ends.

Times are seconds since the run began. ``intended`` is when the trace wanted the request sent, ``sent`` when the client
got to it; the difference is the client's own lag, and every latency is counted from ``intended``, so that a client
that falls behind cannot make a server look fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson


class RecordError(ValueError):
    """A record file that cannot be used: one line that names file and line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request, as the client saw it."""

    request_id: str
    """Sent as ``x-request-id``, by which the gateway's and the workers' logs are matched."""
    intended: float
    sent: float
    end: float
    """Last byte, or the failure."""
    first_token: float | None
    """None: not streamed, or none came."""
    input_length: int
    """Tokens the prompt was made for."""
    output_length: int
    """Tokens the trace says the answer has."""
    max_tokens: int | None
    num_prompt_tokens: int | None
    """From the answer's usage; None: it told none."""
    num_output_tokens: int
    """From the answer's usage, else the events counted."""
    num_cached_tokens: int | None
    max_gap: float
    """Longest pause between two pieces of the stream, seconds."""
    status: int
    """HTTP status; 0 without an answer."""
    error: str | None
    """The kind of failure; None: a whole, good answer."""
    detail: str | None
    worker: str | None
    """From the ``x-ranvier-worker`` header."""


def encode(record: Record) -> bytes:
    """One line, its end included."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of a file.

    Raises:
        RecordError: it cannot be read, is empty, or a line is no record.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    if not lines:
        raise RecordError(f"{path}: empty; no request was recorded")
    return _parsed(lines, path)


def _parsed(lines: Iterable[bytes], path: str | Path) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        try:
            yield Record(**{name: value for name, value in _object(line).items() if name in _NAMES})
        except (TypeError, ValueError) as error:
            told = str(error).replace("Record.__init__() ", "")
            raise RecordError(f"{path}:{number}: not a record of loadgen: {told}") from None


_NAMES = frozenset(field.name for field in fields(Record))


def _object(line: bytes) -> dict[str, Any]:
    value = orjson.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
