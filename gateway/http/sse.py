"""What the gateway reads of a worker's event stream and of its ``usage``, without ever changing a byte of it.

The bytes may be in chunked transfer coding: an event's line is found by what stands before it, and a worker that writes
an event at a time never splits one over chunks. Where one is split all the same, it counts as an ordinary event.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import orjson

Kind = Literal["token", "error", "other"]


class StreamEvent(NamedTuple):
    kind: Kind
    """``token``: it has content; ``error``: an error object; ``other``: a role, an empty delta, usage, ``[DONE]``."""
    start: int
    """Where its ``data:`` stands in the bytes read."""
    status: int
    """Of an error, its ``code`` (500 if it has none); else 0."""
    payload: bytes


def read_events(data: bytes, start: int = 0) -> tuple[list[StreamEvent], int]:
    """The events whose ``data:`` line is whole in ``data[start:]``, and where to go on reading when more has come."""
    events: list[StreamEvent] = []
    while (at := data.find(b"data:", start)) >= 0:
        end = data.find(b"\n", at)
        if end < 0:
            return events, at
        if at == 0 or data[at - 1] == 0x0A:
            payload = data[at + 5 : end].strip()
            kind, status = _kind(payload)
            events.append(StreamEvent(kind, at, status, payload))
        start = end
    return events, max(start, len(data) - 4)


def event_end(data: bytes, event: StreamEvent, *, chunked: bool) -> bytes:
    """The bytes with which this worker ends an event (and its chunk); empty if it is seen to write them otherwise."""
    line_end = data.index(b"\n", event.start)
    newline = b"\r\n" if data[line_end - 1 : line_end] == b"\r" else b"\n"
    after = data[line_end + 1 : line_end + 1 + len(newline)]
    if not newline.startswith(after):
        return b""
    return newline * 2 + b"\r\n" if chunked else newline * 2


def event_mark(data: bytes, event: StreamEvent) -> bytes:
    """What tokens are counted by: how an event with a JSON object begins, with the end of the line before it."""
    brace = data.find(b"{", event.start, event.start + 8)
    return b"\n" + data[event.start : brace + 1] if brace > 0 else b"\ndata:"


def _kind(payload: bytes) -> tuple[Kind, int]:
    if payload == b"[DONE]":
        return "other", 0
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return "token", 0
    if type(value) is not dict:
        return "token", 0
    if (error := value.get("error")) and "choices" not in value:
        return "error", _error_status(error)
    return ("token" if _has_content(value) else "other"), 0


def _error_status(error: object) -> int:
    code = error.get("code") if type(error) is dict else None
    return code if type(code) is int and 400 <= code < 600 else 500


def _has_content(value: dict[str, Any]) -> bool:
    choices = value.get("choices")
    if type(choices) is list:
        return any(type(choice) is dict and _choice_has_content(choice) for choice in choices)
    kind = value.get("type")  # the responses and messages APIs name their events
    return not isinstance(kind, str) or kind.endswith(("delta", "_delta"))


def _choice_has_content(choice: dict[str, Any]) -> bool:
    if choice.get("finish_reason") is not None:
        return True
    delta = choice.get("delta")
    if type(delta) is dict:
        return any(value for name, value in delta.items() if name != "role")
    return "text" in choice


class Usage(NamedTuple):
    num_output_tokens: int | None
    num_prompt_tokens: int | None
    num_cached_tokens: int | None


NO_USAGE = Usage(None, None, None)
_NUMBER = re.compile(rb'"(completion|output|prompt|input|cached|cache_read_input)_tokens"\s*:\s*(\d{1,12})')
_USAGE_SPAN = 640
"""Bytes after the last ``"usage"`` in which its numbers are looked for."""


def read_usage(data: bytes) -> Usage:
    """The last ``usage`` object in ``data``, each number None where it is not said."""
    at = max(data.rfind(b'"usage":{'), data.rfind(b'"usage": {'))
    if at < 0:
        return NO_USAGE
    start = data.index(b"{", at)
    if (end := data.find(b"}", start) + 1) and data.find(b"{", start + 1, end) < 0:
        return _flat_usage(data[start:end])
    output = prompt = cached = None
    for name, number in _NUMBER.findall(data, at, at + _USAGE_SPAN):
        if name in (b"completion", b"output"):
            output = int(number)
        elif name in (b"prompt", b"input"):
            prompt = int(number)
        else:
            cached = int(number)
    return Usage(output, prompt, cached)


def _flat_usage(data: bytes) -> Usage:
    """Of an object without others in it, as most are: read as a whole."""
    try:
        get = orjson.loads(data).get
    except orjson.JSONDecodeError:
        return NO_USAGE
    output, prompt = get("completion_tokens", get("output_tokens")), get("prompt_tokens", get("input_tokens"))
    return Usage(_count(output), _count(prompt), _count(get("cached_tokens", get("cache_read_input_tokens"))))


def _count(value: object) -> int | None:
    """Bounded: what a worker says is added up."""
    return int(min(value, _MAX_TOKENS)) if isinstance(value, int | float) and value >= 0 else None


_MAX_TOKENS = 10**12 - 1
