"""One request on its way: from a client's connection to a worker's and back, over as many attempts as it takes.

``Exchange`` moves bytes and knows what has reached the client; its subclasses say who decides: the dispatcher
(``ModelExchange``) or nobody (``PlainExchange``). Once a byte of an answer has been sent (``released``) there is no
other attempt; what breaks afterwards ends for the client in an error it cannot take for an end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.answers import LAST_CHUNK, answer, chunk, error_body, error_chunk
from gateway.http.incoming import IncomingRequest
from gateway.http.metrics import Ending
from gateway.http.worker_connection import BreakReason, WorkerConnection
from gateway.http.worker_pool import Connecting, WorkerPool

if TYPE_CHECKING:
    from gateway.http.client_connection import ClientConnection
    from gateway.http.data_plane import DataPlane


class Exchange:
    __slots__ = (
        "_connecting",
        "at_boundary",
        "client",
        "close_after",
        "connection",
        "decoded",
        "incoming",
        "is_stream",
        "plane",
        "pool",
        "released",
        "request_id",
        "request_id_bytes",
        "status",
    )

    def __init__(self, plane: DataPlane, client: ClientConnection, incoming: IncomingRequest, request_id: str) -> None:
        self.plane = plane
        self.client: ClientConnection | None = client
        """None once the answer is complete or the client has left."""
        self.incoming = incoming
        self.request_id = request_id
        self.request_id_bytes = request_id.encode("ascii")
        self.pool: WorkerPool | None = None
        """Of the current or last attempt."""
        self.connection: WorkerConnection | None = None
        self.decoded = incoming.http10
        self.released = False
        self.is_stream = False
        """The answer under way is an event stream."""
        self.status = 0
        """Sent to the client; 0 while nothing was."""
        self.close_after = not incoming.keep_alive
        self.at_boundary = True
        """What has been sent of a stream ends with a whole event, and with a whole chunk where it is chunked."""
        self._connecting: Connecting | None = None

    # --- towards the worker

    def send(self, pool: WorkerPool) -> None:
        """Starts an attempt."""
        self.pool = pool
        connection = pool.take()
        if connection is None:
            self._connecting = pool.connect(self)
        else:
            self._start(connection)

    def connected(self, connection: WorkerConnection) -> None:
        self._connecting = None
        self._start(connection)

    def _start(self, connection: WorkerConnection) -> None:
        self.connection = connection
        incoming, pool = self.incoming, connection.pool
        head = incoming.worker_head(pool.host_header, pool.base_path, self.request_id_bytes, pool.authorization)
        connection.start(self, head, incoming.body)

    def drop_attempt(self) -> None:
        """Gives the current attempt up; its worker aborts the request. Idempotent."""
        if self._connecting is not None:
            self._connecting.exchange = None
            self._connecting = None
        connection, self.connection = self.connection, None
        if connection is not None and connection.exchange is self:
            connection.abort()

    # --- from the worker

    def head(self, connection: WorkerConnection, data: bytes) -> None:
        self.release(data)

    def receive(self, data: bytes) -> None:
        if self.client is not None:
            self.client.write(data)

    def end(self) -> None:
        raise NotImplementedError

    def broken(self, reason: BreakReason) -> None:
        """The attempt came to nothing, or to a part of an answer."""
        self._connecting = None
        connection, self.connection = self.connection, None
        if self.client is None:
            return
        if reason == "lost" and connection is not None and connection.reused and not connection.has_answered:
            self._connecting = connection.pool.connect(self)  # it had died while it was idle: no attempt is lost
        elif self.released:
            self._break_off(connection, "The worker broke off in the middle of this answer.")
            self.ended_broken(reason)
        else:
            self.attempt_failed(reason)

    def attempt_failed(self, reason: BreakReason) -> None:
        raise NotImplementedError

    def ended_broken(self, reason: BreakReason) -> None:
        raise NotImplementedError

    # --- towards the client

    def release(self, data: bytes) -> None:
        """Sends the worker's head and the first of its body: from here on there is no other attempt."""
        connection, client = self.connection, self.client
        if connection is None or client is None:
            return
        self.released = True
        self.status = connection.status
        self.plane.body_released(self.incoming)
        head = self._client_head(connection)
        if self.incoming.is_head:
            client.write(head)
            connection.abort()
            self.end()
        else:
            client.write(head + data)

    def _client_head(self, connection: WorkerConnection) -> bytes:
        incoming = self.incoming
        framing = connection.framing
        transfer = b""
        if framing == "chunked":
            if self.decoded:
                self.close_after = True
            else:
                transfer = b"transfer-encoding: chunked\r\n"
        elif framing == "close":
            self.close_after = True
        if self.close_after or self.plane.draining:
            self.close_after = True
            transfer += b"connection: close\r\n"
        elif incoming.http10:
            transfer += b"connection: keep-alive\r\n"
        if connection.status in (429, 503) and b"\r\nretry-after:" not in connection.head_lines.lower():
            transfer += b"retry-after: 1\r\n"
        return b"%b%b%bx-request-id: %b\r\n\r\n" % (
            connection.head_lines,
            transfer,
            connection.pool.header,
            self.request_id_bytes,
        )

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """An answer of the gateway's own; the request is over for the client."""
        client = self.client
        if client is None:
            return
        self.status = status
        self.close_after = self.close_after or self.plane.draining
        headers += b"x-request-id: %b\r\n" % self.request_id_bytes
        if self.incoming.http10 and not self.close_after:
            headers += b"connection: keep-alive\r\n"
        client.write(answer(status, body, headers=headers, close=self.close_after, head_only=self.incoming.is_head))
        self.leave_client()

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, error_body(status, message))

    def leave_client(self) -> None:
        """The client has all it will get."""
        client, self.client = self.client, None
        self.plane.body_released(self.incoming)
        if client is not None:
            client.exchange_over(close=self.close_after)

    def _break_off(self, connection: WorkerConnection | None, message: str) -> None:
        """Ends an answer that can not be completed: a stream in an error event, anything else in a reset."""
        client = self.client
        if client is None:
            return
        self.close_after = True
        if not self.is_stream or not self.at_boundary or connection is None or connection.framing == "length":
            client.reset()
            return
        event = error_chunk(message)
        chunked = connection.framing == "chunked" and not self.decoded
        client.write(chunk(event) + LAST_CHUNK if chunked else event)

    # --- the client's side

    def client_left(self) -> None:
        """Its connection has ended; nothing more can be sent."""
        self.abandon("cancelled")

    def abandon(self, ending: Ending) -> None:
        """Nobody waits for the answer any more: the attempt is dropped, and whoever decides is told."""
        self.client = None
        self.plane.body_released(self.incoming)
        self.drop_attempt()

    def shut_down(self, status: int, message: str) -> None:
        """Ends now what would go on: with an error, or with an error event in a stream."""
        if self.released:
            self._break_off(self.connection, message)
        else:
            self.close_after = True
            self.refuse(status, message)
        client = self.client
        self.abandon("failed")
        if client is not None:
            client.exchange_over(close=True)

    def pause_worker(self) -> None:
        """The client reads slower than the worker sends."""
        if self.connection is not None:
            self.connection.pause_reading()

    def resume_worker(self) -> None:
        if self.connection is not None:
            self.connection.resume_reading()
