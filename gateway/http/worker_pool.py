"""The connections to one worker: idle ones are used again, the last first; new ones are made when none is idle."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast
from urllib.parse import urlsplit

from gateway.http.answer_head import Heads
from gateway.http.settings import HttpSettings
from gateway.http.sweeper import Sweeper, Swept
from gateway.http.worker_connection import Answered, BreakReason, WorkerConnection
from gateway.runtime import Clock


class Connecting:
    """A connection being made for an exchange, which gives it up by ``exchange = None``: it is then kept for others."""

    __slots__ = ("exchange",)

    def __init__(self, exchange: Answered) -> None:
        self.exchange: Answered | None = exchange

    def failed(self, reason: BreakReason) -> None:
        if self.exchange is not None:
            self.exchange.broken(reason)


class WorkerPool:
    """``url`` is ``http://host[:port][/base]`` or https; ``ValueError`` names what is wrong with it."""

    def __init__(
        self,
        worker_id: str,
        url: str,
        settings: HttpSettings,
        sweeper: Sweeper,
        clock: Clock,
        api_key: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"worker {worker_id}: {url!r} is no http://host:port URL")
        self.worker_id = worker_id
        self.header = b"x-ranvier-worker: %b\r\n" % worker_id.encode("ascii", "replace")
        self.settings = settings
        self.clock = clock
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.host_header = parts.netloc.rpartition("@")[2].encode("ascii", "replace")
        self.base_path = parts.path.rstrip("/").encode("ascii", "replace")
        self.authorization = b"authorization: Bearer %b\r\n" % api_key.encode("ascii") if api_key else b""
        """A header line, empty: the client's own is passed on."""
        self.heads = Heads()
        self.removed = False
        self._tls = None if parts.scheme == "http" else tls or ssl.create_default_context()
        self._sweeper = sweeper
        self._idle: list[WorkerConnection] = []
        self._open: set[WorkerConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def num_idle_connections(self) -> int:
        return len(self._idle)

    @property
    def num_connections(self) -> int:
        return len(self._open)

    def take(self) -> WorkerConnection | None:
        """An idle connection, the most recently used; None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def put(self, connection: WorkerConnection) -> None:
        if self.removed or len(self._idle) >= self.settings.max_idle_connections_per_worker:
            connection.transport.abort()
            return
        connection.active_at = self.clock.now
        self._idle.append(connection)

    def connect(self, exchange: Answered) -> Connecting:
        """Makes a new connection and hands it to ``exchange.connected``, or tells it that it is broken."""
        ticket = Connecting(exchange)
        task = asyncio.get_running_loop().create_task(self._connect(ticket))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return ticket

    def _protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, WorkerConnection(self))

    async def _connect(self, ticket: Connecting) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds or None):
                _, protocol = await loop.create_connection(self._protocol, self.host, self.port, ssl=self._tls)
        except (OSError, TimeoutError):
            ticket.failed("connect")
            return
        connection = cast(WorkerConnection, protocol)
        if self.removed:
            connection.abort()
            ticket.failed("removed")
        elif connection.transport.is_closing():
            ticket.failed("connect")
        elif ticket.exchange is None:
            self.put(connection)
        else:
            ticket.exchange.connected(connection)

    def opened(self, connection: WorkerConnection) -> set[Swept]:
        self._open.add(connection)
        return self._sweeper.add(connection)

    def closed(self, connection: WorkerConnection) -> None:
        self._open.discard(connection)
        if connection.exchange is None and connection in self._idle:
            self._idle.remove(connection)

    def remove(self) -> None:
        """Closes what is idle; what is in use is told that its worker is gone."""
        self.removed = True
        self._idle.clear()
        for connection in tuple(self._open):
            connection.fail("removed")

    def close(self) -> None:
        """Drops everything without telling anybody."""
        self.removed = True
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._open):
            connection.abort()
