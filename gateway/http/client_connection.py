"""A client's connection: requests parsed one after another, answered strictly in their order.

The parser (llhttp, strict) refuses what smugglers use: conflicting or repeated lengths, obs-fold, bare LF, NUL.
Whatever is refused here is answered once, after all that was asked before it, and the connection is closed. An end of
stream from a client that still waits for an answer counts as leaving: half-closed connections are not kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import httptools

from gateway.http.answers import CONTINUE, RefusedError, answer
from gateway.http.head_checks import TOO_LARGE, admit, not_http
from gateway.http.incoming import NOTES, IncomingRequest
from gateway.http.known_head import KnownHead, known_head
from gateway.http.slow_client import Unread, Upload, reset

if TYPE_CHECKING:
    from gateway.http.data_plane import DataPlane
    from gateway.http.exchange import Exchange


class ClientConnection:
    """An ``asyncio.Protocol`` in all but its base class, under which it could not be compiled to a class of C."""

    __deletable__ = ("_parser", "write")
    __slots__ = (
        "_active_at",
        "_began_at",
        "_body",
        "_body_bytes",
        "_bucket",
        "_continue_due",
        "_declined",
        "_exchange",
        "_in_body",
        "_incoming",
        "_known",
        "_lingering_since",
        "_parser",
        "_plane",
        "_read_bytes",
        "_reading_paused",
        "_refused",
        "_unaccounted",
        "_unread",
        "_upload",
        "_waiting",
        "_whole",
        "transport",
        "write",
    )

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: IncomingRequest | None = None
        """The request being read."""
        self._in_body = False
        self._read_bytes = 0
        """In the read that is being parsed."""
        self._whole = b""
        """That read, if a request begins with it."""
        self._known: KnownHead | None = None
        """The last head of a request to a model."""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unaccounted = 0
        """Bytes read since the parser last told of anything that is counted: a header or trailer without an end."""
        self._exchange: Exchange | None = None
        """The request being answered."""
        self._waiting: deque[IncomingRequest] = deque()
        """Read while another was being answered."""
        self._refused: RefusedError | None = None
        """Nothing more is read; to be answered when it is its turn."""
        self._declined: IncomingRequest | None = None
        """A request that offered to upgrade, whose body the parser left unread."""
        self._continue_due = False
        self._active_at = plane.clock.now
        """Coarse time of the start of what is waited for: idleness, a head, the next piece of a body."""
        self._began_at = 0.0
        """Coarse time at which the exchange began."""
        self._upload = Upload()
        self._unread = Unread()
        self._reading_paused = False
        self._lingering_since: float | None = None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.write = self.transport.write
        self._active_at = self._plane.clock.now
        self._bucket = self._plane.client_connected(self)
        if self._plane.num_client_connections > self._plane.settings.max_connections:
            self._refuse(RefusedError(503, "The gateway has too many connections. Please try again later."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._bucket.discard(self)
        self._plane.client_disconnected(self)
        self._plane.num_buffered_body_bytes -= self._body_bytes
        self._drop_waiting()
        self._body_bytes = 0
        self._incoming = None
        del self._parser, self.write  # they refer to this object
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def eof_received(self) -> None:
        if self._exchange is not None or self._waiting:
            self.transport.abort()  # else the transport closes by itself, when what was written has gone out

    def data_received(self, data: bytes) -> None:
        if self._refused is not None:
            return
        if self._incoming is None:
            if (known := self._known) is not None and (start := known.body_start(data)) and self._may_take(known, data):
                self._take(known.incoming, data[start:])
                return
            self._active_at = self._plane.clock.now
            self._whole = data
        elif self._in_body:
            self._active_at = self._plane.clock.now
        self._read_bytes = len(data)
        self._unaccounted += self._read_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RefusedError) else RefusedError(500, "Internal error."))
            return
        except httptools.HttpParserError as error:
            self._refuse(not_http(error))
            return
        finally:
            self._whole = b""
        if self._incoming is not None and self._unaccounted > 2 * self._plane.settings.max_header_bytes:
            self._refuse(RefusedError(431, "The headers are too large."))
        elif self._waiting and len(self._waiting) >= self._plane.settings.max_pipelined_requests:
            self._pause_reading()

    def _may_take(self, known: KnownHead, data: bytes) -> bool:
        """Whether nothing is asked of the parser but this head and body, and nothing was asked before."""
        plane = self._plane
        settings, size = plane.settings, len(data)
        return (
            self._exchange is None
            and not self._waiting
            and self._declined is None
            and known.was_read_under(settings, plane.api_keys)
            and size <= settings.max_body_bytes
            and size + plane.num_buffered_body_bytes <= settings.max_buffered_body_bytes
            and not self.transport.is_closing()
        )

    def _take(self, incoming: IncomingRequest, body: bytes) -> None:
        """A whole request, as the parser would hand it over."""
        plane = self._plane
        self._active_at = plane.clock.now
        incoming.body = body
        incoming.num_buffered_bytes = size = len(body)
        plane.num_buffered_body_bytes += size
        plane.ask_model(self, incoming)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """An offer to upgrade is declined by answering as if it had not been made (RFC 9110, 7.8). The parser has
        stopped before the body: another is told of its framing and goes on there."""
        self._parser = httptools.HttpRequestParser(self)
        incoming = self._declined
        if incoming is not None:
            framing = b"transfer-encoding: chunked" if incoming.transfer_encoding else b"content-length: %d"
            framing = framing % incoming.content_length if not incoming.transfer_encoding else framing
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        self._unread.begins(self._plane.clock.now)
        if self._exchange is not None:
            self._exchange.pause_worker()

    def resume_writing(self) -> None:
        self._unread.since = None
        if self._exchange is not None:
            self._exchange.resume_worker()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    # --- the parser's side

    def on_message_begin(self) -> None:
        declined = self._declined
        self._incoming = IncomingRequest() if declined is None else declined
        self._unaccounted = 0
        self._in_body = declined is not None

    def on_url(self, url: bytes) -> None:
        incoming = self._incoming
        if incoming is None or self._in_body:
            return
        incoming.target = incoming.target + url if incoming.target else url
        if len(incoming.target) > self._plane.settings.max_url_bytes:
            raise RefusedError(414, "The URL is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        incoming = self._incoming
        if incoming is None or self._in_body:
            return  # a trailer of a chunked body: dropped
        note = NOTES.get(name.lower())
        if note is None:
            incoming.headers.append(b"%b: %b\r\n" % (name, value))
        else:
            note(incoming, name, value)

    def on_headers_complete(self) -> None:
        incoming = self._incoming
        if incoming is None or self._in_body:
            self._declined = None
            return
        self._in_body = True
        admit(incoming, self._parser, self._plane, self.transport, self._unaccounted + self._read_bytes)
        if incoming.expect and not incoming.http10:
            if self._exchange is None and not self._waiting:
                self.transport.write(CONTINUE)
            else:
                self._continue_due = True  # when what was asked before has been answered

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._unaccounted = 0
        self._body_bytes += size
        plane = self._plane
        plane.num_buffered_body_bytes += size
        self._body.append(body)
        if self._body_bytes > plane.settings.max_body_bytes:
            raise RefusedError(413, TOO_LARGE % plane.settings.max_body_bytes)
        if plane.num_buffered_body_bytes > plane.settings.max_buffered_body_bytes:
            raise RefusedError(503, "The gateway holds too many request bodies. Please try again later.")

    def on_message_complete(self) -> None:
        incoming, self._incoming = self._incoming, None
        self._in_body = False
        if incoming is None:
            return
        if (
            incoming.upgrade
            and self._parser.should_upgrade()
            and (incoming.content_length or incoming.transfer_encoding)
        ):
            self._declined = incoming
            return
        self._continue_due = False
        if body := self._body:
            incoming.body = body[0] if len(body) == 1 else b"".join(body)
            incoming.num_buffered_bytes = self._body_bytes
            self._body = []
            self._body_bytes = 0
        if self._exchange is not None or self._waiting:
            self._waiting.append(incoming)
        elif self.transport.is_closing():
            self._plane.body_released(incoming)
        else:
            self._known = known_head(self._whole, incoming, self._plane.settings, self._plane.api_keys)
            self._plane.handle(self, incoming)

    # --- requests

    def begin(self, exchange: Exchange) -> None:
        """The exchange that answers what was just handed to the data plane."""
        self._exchange = exchange
        self._began_at = self._plane.clock.now
        if self._unread.since is not None:
            exchange.pause_worker()

    def exchange_over(self, *, close: bool) -> None:
        """Its answer has been written in full."""
        self._exchange = None
        self._active_at = self._plane.clock.now
        if close:
            self._close()
        elif self._waiting or self._refused is not None or self._continue_due or self._reading_paused:
            self._plane.loop.call_soon(self._next)  # not from within what may be this very request's beginning
        elif self._plane.draining and self._incoming is None:
            self._close()

    def _next(self) -> None:
        if self._exchange is not None or self.transport.is_closing():
            return
        if self._waiting:
            self._plane.handle(self, self._waiting.popleft())
        elif self._refused is not None:
            self._answer_refused(self._refused)
        else:
            if self._continue_due:
                self._continue_due = False
                self.write(CONTINUE)
            self._resume_reading()

    def reset(self) -> None:
        """Drops the connection so that the client cannot take what it has for a whole answer."""
        reset(self.transport)

    def _close(self) -> None:
        self._drop_waiting()
        self.transport.close()

    def _drop_waiting(self) -> None:
        for incoming in self._waiting:
            self._plane.body_released(incoming)
        self._waiting.clear()

    def close_if_idle(self) -> bool:
        """Closes unless a request is being read or answered; whether it did."""
        idle = self._exchange is None and not self._waiting and self._incoming is None
        if idle:
            self.transport.close()
        return idle

    def shut_down(self) -> None:
        """Ends whatever goes on: an error for what has no answer yet, an error event for a stream."""
        if self._exchange is not None:
            self._exchange.shut_down(503, "The gateway is shutting down.")
        self.transport.close()

    # --- refusals

    def _refuse(self, refused: RefusedError) -> None:
        self._refused = refused
        self._body = []
        self._plane.num_buffered_body_bytes -= self._body_bytes
        self._body_bytes = 0
        self._incoming = None
        if self._exchange is None and not self._waiting:
            self._answer_refused(refused)

    def _answer_refused(self, refused: RefusedError) -> None:
        """Answers, then reads on without listening for a while: a close with unread bytes would be a reset, and the
        client might never see the answer."""
        if self.transport.is_closing():
            return
        self._plane.metrics.request_refused(refused.status)
        self.write(answer(refused.status, refused.body, headers=refused.headers, close=True))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._lingering_since = self._plane.clock.now
        self._resume_reading()

    # --- timeouts

    def swept(self, now: float) -> None:
        settings = self._plane.settings
        if self._lingering_since is not None:
            if now - self._lingering_since > settings.linger_seconds:
                self.transport.abort()
        elif self._exchange is not None:
            if self._unread.since is not None and self._has_stopped_reading(now, self._unread.since):
                self.transport.abort()
            elif 0 < settings.total_timeout_seconds < now - self._began_at:
                self._exchange.shut_down(504, "The request took longer than it may in all.")
        elif self.transport.is_closing():
            self._swept_closing(now)
        else:
            self._swept_reading(now - self._active_at)

    def _has_stopped_reading(self, now: float, since: float) -> bool:
        return self._unread.is_stuck(self.transport, now, since, self._plane.settings.write_timeout_seconds)

    def _swept_closing(self, now: float) -> None:
        """The last answer is still in the buffer of a connection that is to be closed."""
        since = self._active_at if self._unread.since is None else self._unread.since
        if self._has_stopped_reading(now, since):
            self.transport.abort()

    def _swept_reading(self, waited: float) -> None:
        settings = self._plane.settings
        if self._incoming is None:
            if 0 < settings.idle_timeout_seconds < waited:
                self.transport.close()
        elif self._in_body:
            too_slow = self._upload.is_too_slow(self._incoming, self._body_bytes, waited + self._active_at, settings)
            if too_slow or 0 < settings.body_timeout_seconds < waited:
                self._refuse(RefusedError(408, "The request's body did not come in time."))
        elif 0 < settings.header_timeout_seconds < waited:
            self._refuse(RefusedError(408, "The request's headers did not come in time."))
