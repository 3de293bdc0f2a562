"""Published traces into this one's format. Times are moved so that the first request is at 0.

Azure: the LLM inference traces of 2023 and 2024 (CSV with TIMESTAMP, ContextTokens, GeneratedTokens). BurstGPT: CSV
with Timestamp, Request tokens, Response tokens. Mooncake: JSONL, the format itself. Each plain or gzipped.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from loadgen.trace import TraceError, TraceRequest, open_input, read_trace

Format = Literal["auto", "azure", "burstgpt", "mooncake"]
FORMATS: tuple[Format, ...] = ("auto", "azure", "burstgpt", "mooncake")

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")


def convert(path: str | Path, source: Format = "auto") -> Iterator[TraceRequest]:
    """The requests of a published trace, in the order of the file.

    A request without output counts as one token (a server always makes one); one without input is an error.

    Raises:
        TraceError: the file cannot be read, is none of the known formats, or has a bad line.
    """
    with open_input(path) as stream:
        head = stream.readline().decode("utf-8-sig", "replace").strip()
    columns = next(csv.reader([head]), [])
    if source in ("auto", "mooncake") and head.startswith("{"):
        return read_trace(path)
    if source in ("auto", "azure") and set(_AZURE) <= set(columns):
        return _rebased(_rows(path, _azure))
    if source in ("auto", "burstgpt") and set(_BURSTGPT) <= set(columns):
        return _rebased(_rows(path, _burstgpt))
    wanted = "any known format" if source == "auto" else f"the {source} format"
    known = f"JSON lines, CSV with {', '.join(_AZURE)}, and CSV with {', '.join(_BURSTGPT)}"
    raise TraceError(f"{path}:1: not {wanted}; known are {known}")


def cut(requests: Iterator[TraceRequest], seconds: float | None, count: int | None) -> Iterator[TraceRequest]:
    """The first ``seconds`` of a trace, at most ``count`` requests; None: all."""
    if seconds is not None:
        requests = itertools.takewhile(lambda request: request.timestamp < seconds * 1000.0, requests)
    return itertools.islice(requests, count)


_Row = Callable[[Mapping[str, str]], TraceRequest | None]


def _rows(path: str | Path, parse: _Row) -> Iterator[TraceRequest]:
    with open_input(path) as stream:
        reader = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
        for row in reader:
            try:
                request = parse(row)
            except (ValueError, TypeError) as error:
                raise TraceError(f"{path}:{reader.line_num}: {error}") from None
            if request is not None:
                yield request


def _azure(row: Mapping[str, str]) -> TraceRequest:
    return TraceRequest(
        timestamp=_instant(row["TIMESTAMP"]) * 1000.0,
        input_length=_count(row, "ContextTokens", least=1),
        output_length=max(1, _count(row, "GeneratedTokens", least=0)),
    )


def _burstgpt(row: Mapping[str, str]) -> TraceRequest | None:
    """None: a request that failed, which the trace records with no response."""
    output = _count(row, "Response tokens", least=0)
    if output == 0:
        return None
    return TraceRequest(
        timestamp=_seconds(row["Timestamp"]) * 1000.0,
        input_length=_count(row, "Request tokens", least=1),
        output_length=output,
        model=row.get("Model") or None,
        session_id=row.get("Session ID") or None,
    )


def _instant(text: str) -> float:
    """Seconds; the traces write seven decimals, one more than ``fromisoformat`` reads."""
    whole, _, fraction = text.partition(".")
    digits = fraction.split("+")[0].split("Z")[0]
    try:
        return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{digits or 0}")
    except ValueError:
        raise ValueError(f"TIMESTAMP: not a time like 2023-11-16 18:15:46.6805900: {text!r:.60}") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"Timestamp: not a number of seconds: {text!r:.60}") from None


def _count(row: Mapping[str, str], column: str, least: int) -> int:
    text = row[column]
    if text is None or not text.strip().isdigit() or int(text) < least:
        raise ValueError(f"{column}: must be a whole number of at least {least}, not {text!r:.60}")
    return int(text)


def _rebased(requests: Iterator[TraceRequest]) -> Iterator[TraceRequest]:
    """From 0, in whole microseconds; published rows are now and then a little out of order: sorted."""
    ordered = sorted(requests, key=lambda request: request.timestamp)
    for request in ordered:
        yield TraceRequest(
            timestamp=round(request.timestamp - ordered[0].timestamp, 3),
            input_length=request.input_length,
            output_length=request.output_length,
            model=request.model,
            session_id=request.session_id,
        )
