"""One HTTP/1.1 request at a time over pooled gevent sockets, with the answer read as it arrives.

Locust's own clients read a stream in pieces of a kilobyte, which is several tokens: too late for the first one. Here
the socket is read whenever it has bytes, and after the first token an event is only counted, not parsed, because
client, gateway and workers may share two cores. Times are of ``time.perf_counter``, seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson
from gevent import Timeout, monkey, socket, ssl

MAX_IDLE_SECONDS = 4.0
"""A connection idle for longer is not used again: uvicorn, vLLM's server, closes them after 5 seconds."""
_READ_BYTES = 65_536
_KEPT_PIECES = 16
"""The last pieces of a stream are kept, as usage and [DONE] are in them."""
_MAX_DETAIL = 200


class UrlError(ValueError):
    """Not a base URL this client can use; one line."""


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


class Client:
    """Sends to one server. ``timeout`` bounds a whole request, in seconds."""

    def __init__(self, url: str, timeout: float = 600.0, connect_timeout: float = 10.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UrlError(f"{url}: not a server's URL; write it as http://127.0.0.1:8000")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        try:
            self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        except ValueError:
            raise UrlError(f"{url}: the port must be a number up to 65535") from None
        self._host = parts.netloc.rpartition("@")[2]
        self.base_path = parts.path.rstrip("/")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._idle: list[tuple[Any, float]] = []

    def post(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Send a JSON body and read the whole answer. Nothing is sent twice; a failure is an ``Answer`` too."""
        answer = Answer(sent=time.perf_counter())
        reply = _Reply(answer)
        try:
            with Timeout(self._timeout):
                self._exchange(self._head(path, headers, len(body)) + body, reply)
        except Timeout:
            reply.fail("timeout", f"no whole answer after {self._timeout:g} s")
        except OSError as error:
            reply.fail("connection lost" if reply.connected else "connect failed", str(error))
        except httptools.HttpParserError as error:
            reply.fail("bad response", str(error))
        answer.end = answer.end or time.perf_counter()
        reply.conclude()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()

    def _exchange(self, request: bytes, reply: _Reply) -> None:
        connection = self._connection()
        reply.connected = True
        try:
            connection.sendall(request)
            while not reply.complete:
                data = connection.recv(_READ_BYTES)
                if not data:
                    reply.closed()
                    break
                reply.parser.feed_data(data)
        except BaseException:
            connection.close()
            raise
        if reply.complete and reply.keep_alive:
            self._idle.append((connection, time.perf_counter()))
        else:
            connection.close()

    def _connection(self) -> Any:
        while self._idle:
            connection, since = self._idle.pop()
            if time.perf_counter() - since < MAX_IDLE_SECONDS and not _is_readable(connection):
                return connection
            connection.close()
        connection = socket.create_connection(self._address, timeout=self._connect_timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_hostname=self._address[0])
        connection.settimeout(None)
        return connection

    def _head(self, path: str, headers: Sequence[tuple[str, str]], length: int) -> bytes:
        lines = [f"POST {self.base_path}{path} HTTP/1.1", f"host: {self._host}", "content-type: application/json"]
        lines += [f"content-length: {length}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")


def _is_readable(connection: Any) -> bool:
    """An idle connection with something to read has been closed, or is out of step."""
    poll = monkey.get_original("select", "poll")()
    poll.register(connection.fileno())
    return bool(poll.poll(0)) and bool(poll.poll(0)[0][1] & 1)


class _Reply:
    """The callbacks of the parser; fills in an ``Answer``."""

    def __init__(self, answer: Answer) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.complete = False
        self.connected = False
        self.keep_alive = False
        self._answer = answer
        self._streamed = False
        self._framed = False
        self._begun = False
        self._pending = b""
        self._pieces: deque[bytes] = deque(maxlen=_KEPT_PIECES)
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
        now = time.perf_counter()
        if self._answer.first_token is None:
            self._before_first_token(data, now)
        else:
            self._answer.max_gap = max(self._answer.max_gap, now - self._last)
            self._num_events += data.count(b"data:")
        self._pieces.append(data)
        self._last = now

    def on_message_complete(self) -> None:
        self._answer.end = time.perf_counter()
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()

    def closed(self) -> None:
        """The server closed: the end of an answer that says no length, else a loss."""
        if self._begun and not self._framed:
            self._answer.end = time.perf_counter()
            self.complete = True
        else:
            self.fail("connection lost", "closed by the server before the end of its answer")

    def fail(self, kind: str, detail: str | None) -> None:
        if self._answer.error is None:
            self._answer.error = kind
            self._answer.detail = " ".join((detail or "").split())[:_MAX_DETAIL] or None

    def conclude(self) -> None:
        """Judge the whole answer and take its usage."""
        events = _events(b"".join(self._pieces))
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
                self._num_events += self._pending.count(b"data:")
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
