"""An answer read as it arrives: bytes in, ``Answer`` out; no sockets here.

After the first token an event of the stream is only counted, not parsed, because client, gateway and workers may share
two cores. Times are those of the clock given, seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson

_TAIL_BYTES = 4096
"""The end of a stream is kept, as usage and [DONE] are in it."""
_MAX_DETAIL = 200


@dataclass(slots=True)
class Answer:
    """What came back, and when."""

    sent: float
    """Before connecting: the client's own delay is over, the server's begins."""
    end: float = 0.0
    """Last byte, or the failure."""
    first_token: float | None = None
    """None: not streamed, or none came."""
    status: int = 0
    """HTTP status; 0 without an answer."""
    error: str | None = None
    """None: a whole, good answer. Else the kind, the same text for the same cause, as in ``http 503``."""
    detail: str | None = None
    worker: str | None = None
    """The ``x-ranvier-worker`` header."""
    num_token_events: int = 0
    """Events of the stream with a piece of the answer; several tokens may share one."""
    max_gap: float = 0.0
    """Longest time between two pieces after the first token, seconds."""
    usage: Mapping[str, Any] = field(default_factory=dict)


class Reply:
    """The callbacks of the parser; fills in an ``Answer``."""

    def __init__(self, answer: Answer, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.parser = httptools.HttpResponseParser(self)
        self.complete = False
        self.connected = False
        self.keep_alive = False
        self._answer = answer
        self._streamed = False
        self._framed = False
        self._begun = False
        self._pending = b""
        self._tail = b""
        self._body: list[bytes] = []
        self._num_events = 0
        self._last = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-type":
                self._streamed = value.startswith(b"text/event-stream")
            case b"x-ranvier-worker":
                self._answer.worker = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self._framed = True

    def on_headers_complete(self) -> None:
        self._begun = True
        self._answer.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if not self._streamed:
            self._body.append(data)
            return
        now = self._clock()
        if self._answer.first_token is None:
            self._before_first_token(data, now)
        else:
            self._answer.max_gap = max(self._answer.max_gap, now - self._last)
            self._num_events += (self._tail[-5:] + data).count(b"\ndata:")
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        self._last = now

    def on_message_complete(self) -> None:
        self._answer.end = self._clock()
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()

    def closed(self) -> None:
        """The server closed: the end of an answer that says no length, else a loss."""
        if self._begun and not self._framed:
            self._answer.end = self._clock()
            self.complete = True
        else:
            self.fail("connection lost", "closed by the server before the end of its answer")

    def fail(self, kind: str, detail: str | None) -> None:
        if self._answer.error is None:
            self._answer.error = kind
            self._answer.detail = " ".join((detail or "").split())[:_MAX_DETAIL] or None

    def conclude(self) -> None:
        """Judge the whole answer and take its usage."""
        events = _events(self._tail)
        self._answer.num_token_events = max(0, self._num_events - sum(not _is_token(event) for event in events[-3:]))
        for event in events if self._streamed else map(_loads, [b"".join(self._body)]):
            self._take(event)
        if self.complete and self._answer.error is None and not 200 <= self._answer.status < 300:
            self.fail(f"http {self._answer.status}", b"".join(self._body).decode("utf-8", "replace"))
        elif self.complete and self._streamed and not _ends_well(events):
            self.fail("truncated", "the stream ended without [DONE]")
        elif self.complete and self._streamed and self._answer.first_token is None:
            self.fail("no token", "the stream had no token")

    def _take(self, event: Mapping[str, Any]) -> None:
        if isinstance(event.get("usage"), dict):
            self._answer.usage = event["usage"]
        problem = event.get("error")
        if problem:
            told = problem if isinstance(problem, dict) else {"message": f"{problem}"}
            kind = f"stream error {told.get('code', '')}".strip() if self._streamed else f"http {self._answer.status}"
            self.fail(kind, f"{told.get('message', '')}")

    def _before_first_token(self, data: bytes, now: float) -> None:
        self._pending += data.replace(b"\r\n", b"\n")
        whole, _, self._pending = self._pending.rpartition(b"\n\n")
        for event in _events(whole):
            if self._answer.first_token is None and _is_token(event):
                self._answer.first_token = now
                self._num_events += self._pending.startswith(b"data:")
            self._num_events += self._answer.first_token is not None


def _events(text: bytes) -> list[Mapping[str, Any]]:
    """The JSON of each ``data:`` line (a line cut off at either end is left out); [DONE] is ``{"done": True}``."""
    lines = (line[5:].strip() for line in text.splitlines() if line.startswith(b"data:"))
    return [event for line in lines if (event := {"done": True} if line == b"[DONE]" else _loads(line))]


def _loads(text: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _ends_well(events: Sequence[Mapping[str, Any]]) -> bool:
    return bool(events) and "done" in events[-1]


def _is_token(event: Mapping[str, Any]) -> bool:
    """An event with a piece of the answer, be its text empty (half a character): not a chat stream's opening, which
    only names the role, nor its bare ending, usage, [DONE] or an error."""
    choices = event.get("choices")
    if not choices:
        return False
    delta = choices[0].get("delta")
    if not isinstance(delta, dict):
        return "text" in choices[0]
    said = any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
    return said or (bool(delta) and "role" not in delta)
