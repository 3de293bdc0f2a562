"""A connection to a worker: one answer at a time, parsed only to know its head and where it ends.

The bytes of a body go to the exchange as they came, transfer coding included, unless the exchange asked for them
decoded. An exchange is told, in this order: ``head`` once, ``receive`` for every later read, then ``end``; or at any
time ``broken``. After ``abort`` it is told nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import httptools

from gateway.http.answer_head import AnswerHead, FaultyHeadError, Framing
from gateway.http.answers import LAST_CHUNK

if TYPE_CHECKING:
    from gateway.http.worker_pool import WorkerPool

BreakReason = Literal["connect", "lost", "garbled", "timeout", "removed", "too_large"]
"""Why no (further) answer comes from a worker. ``lost``: it closed or reset the connection."""


class Answered(Protocol):
    """What a worker's answer is told to."""

    decoded: bool
    """Wants the body without its transfer coding."""

    def connected(self, connection: WorkerConnection) -> None: ...
    def head(self, connection: WorkerConnection, data: bytes) -> None:
        """The head is complete (``connection.status`` and so on); ``data`` is what came after it in the same read."""
        ...

    def receive(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def broken(self, reason: BreakReason) -> None: ...


class WorkerConnection:
    """An ``asyncio.Protocol`` in all but its base class, under which it could not be compiled to a class of C."""

    __deletable__ = ("_feed", "_parser")
    __slots__ = (
        "_before_head",
        "_bodies",
        "_bucket",
        "_clock",
        "_feed",
        "_head",
        "_head_passed",
        "_keep",
        "_last",
        "_num_interim",
        "_parser",
        "_passing",
        "_reading_paused",
        "_remaining",
        "active_at",
        "complete",
        "content_type",
        "exchange",
        "framing",
        "has_answered",
        "head_complete",
        "head_lines",
        "pool",
        "receive",
        "reused",
        "status",
        "transport",
    )

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.exchange: Answered | None = None
        self.receive: Callable[[bytes], None] = _nobody
        """Where a later read of the body goes: bound once an answer, and the exchange may bind it anew."""
        self.transport: asyncio.Transport
        self.reused = False
        """It has carried an answer before, so that it may have died unnoticed."""
        self.has_answered = False
        """A byte of an answer to the current request has come."""
        self.active_at = pool.clock.now
        """Coarse time of the last read, of the request's start, or since when it is idle."""
        self._bodies: list[bytes] | None = None
        self._reading_paused = False
        self._clock = pool.clock
        self._parse_with(httptools.HttpResponseParser(self))
        self._reset()

    def _parse_with(self, parser: httptools.HttpResponseParser) -> None:
        self._parser = parser
        self._feed = parser.feed_data

    def _reset(self) -> None:
        self.status = 0
        self.head_lines = b""
        """The status line and the end-to-end headers, each with its line end."""
        self.content_type = b""
        self.framing: Framing = "close"
        self.head_complete = False
        self.complete = False
        self._keep = False
        self._passing = False
        """What is read goes to the exchange as it is."""
        self._head_passed = False
        self._before_head = b""
        self._num_interim = 0
        self._remaining = 0
        """Of a body whose length was told, what has not come; below 0 when more came."""
        self._last = b""
        """The read before this one, of a chunked body."""

    # --- the exchange's side

    def start(self, exchange: Answered, head: bytes, body: bytes) -> None:
        """Sends a request; the connection is the exchange's until its end."""
        if self.reused:
            self._reset()
        self.exchange = exchange
        self.receive = exchange.receive
        self.has_answered = False
        self.active_at = self.pool.clock.now
        if exchange.decoded:
            self._bodies = []
            self._parse_with(httptools.HttpResponseParser(_DecodedSink(self, self._bodies)))
        if len(body) <= _COPIED_BODY_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def abort(self) -> None:
        """Drops the connection at once: the worker aborts the request. The exchange hears nothing more."""
        self.exchange = None
        self.receive = _nobody
        self._passing = False
        self.transport.abort()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.active_at = self.pool.clock.now
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._bucket = self.pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bucket.discard(self)
        self.pool.closed(self)
        exchange, self.exchange = self.exchange, None
        del self._parser, self._feed  # they refer to this object
        if exchange is None:
            return
        if exc is None and self.head_complete and self.framing == "close":
            self.complete = True
            exchange.end()
        else:
            exchange.broken("lost")

    def eof_received(self) -> None:
        """The transport closes by itself."""

    def pause_writing(self) -> None:
        """A request is written at once, however long."""

    def resume_writing(self) -> None:
        """As before."""

    def data_received(self, data: bytes) -> None:
        self.active_at = self._clock.now
        if not self._passing:
            self._read_head(data)
            return
        try:
            self._feed(data)
        except _PARSER_ERRORS:
            self.fail("garbled")
            return
        if self.complete:
            self.receive(self._without_excess(data))
            self._finish()
            return
        if self.framing == "chunked":
            self._last = data
        else:
            self._remaining -= len(data)
        self.receive(data)

    def _without_excess(self, data: bytes) -> bytes:
        """The last read of a body, without the empty lines that may follow it: the parser lets them pass, and the
        client would take them for the beginning of its next answer."""
        if self.framing != "chunked":
            excess = 0 if self.framing == "close" else len(data) - self._remaining
        elif data.endswith(b"\r\n0\r\n\r\n") or data == LAST_CHUNK:
            return data
        else:
            excess = _num_after_end((self._last + data)[-_TAIL_BYTES:])
        if excess <= 0:
            return data
        self._keep = False
        return data[: max(0, len(data) - excess)]

    def _read_head(self, data: bytes) -> None:
        """A read of which the exchange gets only a part: up to the head's end, or a body to be decoded."""
        if self.exchange is None:
            self.transport.abort()  # it speaks out of turn
            return
        if not self.has_answered:
            self.has_answered = True
            if self._bodies is None and (whole := self.pool.heads.of_whole(data)) is not None:
                self._answered_whole(self.exchange, *whole)
                return
        try:
            self._feed(data)
            if self.head_complete and not self._head_passed:
                data = self._take_head(data)
        except _PARSER_ERRORS:
            self.fail("garbled")
            return
        if not self.head_complete:
            self._hold_head(data)
            return
        if self._bodies is None:
            self._passing = True
            if self.complete:
                data = self._without_excess(data)
                self._note_whole()
            elif self.framing == "chunked":
                self._last = data
            else:
                self._remaining -= len(data)
            self.exchange.head(self, data)
        elif not self._head_passed:
            self._head_passed = True
            self.exchange.head(self, self._take_bodies())
        elif data := self._take_bodies():
            self.receive(data)
        if self.complete:
            self._finish()

    def _hold_head(self, data: bytes) -> None:
        self._before_head += data
        if len(self._before_head) > self.pool.settings.max_response_head_bytes:
            self.fail("too_large")

    def _answered_whole(self, exchange: Answered, head: AnswerHead, digits: bytes, body: bytes) -> None:
        """All of an answer came in one read, and its head is known: the parser need not be asked."""
        self.status = head.status
        self.head_lines = head.lines(digits)
        self.content_type = head.content_type
        self.framing = head.framing
        self.head_complete = self.complete = self._keep = self._passing = True
        exchange.head(self, body)
        self._finish()

    def _note_whole(self) -> None:
        """An answer like this one need not be given to the parser."""
        if self._keep and self.framing == "length" and not self._before_head and not self._num_interim:
            self._head.skips_parser = True

    def _take_head(self, data: bytes) -> bytes:
        """Reads the head that ``data`` completes, the last one after interim ones; returns what comes after it."""
        whole = self._before_head + data if self._before_head else data
        start, end = 0, whole.find(b"\r\n\r\n")
        for _ in range(self._num_interim):
            start, end = end + 4, whole.find(b"\r\n\r\n", end + 4)
        head, digits = self.pool.heads.read(whole[start:end], self.status)
        self._head = head
        self.head_lines = head.lines(digits)
        self.content_type = head.content_type
        self.framing = head.framing
        self._remaining = int(digits) if digits and head.framing == "length" else head.length
        return whole[end + 4 :]

    def _take_bodies(self) -> bytes:
        bodies = self._bodies
        if not bodies:
            return b""
        data = b"".join(bodies)
        bodies.clear()
        return data

    def _finish(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.receive = _nobody
        self._passing = False
        if self._keep and self._bodies is None and exchange is not None and not self.transport.is_closing():
            self.resume_reading()
            self.reused = True
            self.pool.put(self)
        else:
            self.transport.abort()
        if exchange is not None:
            exchange.end()

    def fail(self, reason: BreakReason) -> None:
        """Gives up on the answer."""
        exchange = self.exchange
        self.abort()
        if exchange is not None:
            exchange.broken(reason)

    def swept(self, now: float) -> None:
        waited = now - self.active_at
        settings = self.pool.settings
        if self.exchange is None:
            if waited > settings.worker_idle_seconds:
                self.transport.abort()
        elif not self._reading_paused:
            limit = settings.inter_token_timeout_seconds if self.has_answered else settings.first_byte_timeout_seconds
            if 0 < limit < waited:
                self.fail("timeout")

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self.complete:
            raise _ExcessError  # a second answer to one request

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._num_interim += 1
            return
        self.status = status
        self.head_complete = True

    def on_message_complete(self) -> None:
        if self.head_complete:
            self.complete = True
            self._keep = self._parser.should_keep_alive()


_PARSER_ERRORS = (httptools.HttpParserError, httptools.HttpParserUpgrade, FaultyHeadError)


class _ExcessError(Exception):
    """More came than the answer asked for."""


class _DecodedSink:
    """The same parser callbacks, and the body's bytes without their coding."""

    def __init__(self, connection: WorkerConnection, bodies: list[bytes]) -> None:
        self.on_message_begin = connection.on_message_begin
        self.on_headers_complete = connection.on_headers_complete
        self.on_message_complete = connection.on_message_complete
        self.on_body = bodies.append


def _nobody(data: bytes) -> None:
    return


_TAIL_BYTES = 8_192


def _num_after_end(tail: bytes) -> int:
    """Bytes after the end of a chunked body that is over by ``tail``: empty lines, or the beginning of one."""
    end = len(tail)
    kept = tail.rstrip(b"\r\n")
    return max(0, end - len(kept) - len(b"\r\n\r\n"))


_COPIED_BODY_BYTES = 8_192
"""A body up to this long is sent in one piece with its head: copying it is cheaper than a second buffer."""
