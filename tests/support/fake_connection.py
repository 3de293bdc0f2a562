"""A server's side of one HTTP/1.1 connection in raw bytes, so that what is sent may be anything."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast


@dataclass(slots=True, eq=False)
class Recorded:
    """One request as it came in."""

    method: str
    target: str
    """Path with its query string."""
    headers: dict[str, str]
    """Names in lower case; of a repeated header, the last."""
    body: bytes
    connection: int
    """Which accepted connection it came on, from 0."""
    received_at: float
    """Event loop time at the last byte of the request."""
    disconnected_at: float | None = None
    """Event loop time at which the peer went away while the behaviour still ran; None when it stayed."""
    sent_bytes: int = 0
    """Response bytes handed to the socket so far."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its behaviour has ended, by itself or because the peer left."""
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def wait_disconnected(self, seconds: float = 5.0) -> None:
        """Returns when the peer has gone away during this request; TimeoutError if it does not."""
        await asyncio.wait_for(self._gone.wait(), seconds)

    async def wait_done(self, seconds: float = 5.0) -> None:
        await asyncio.wait_for(self.done.wait(), seconds)


class Exchange:
    """One request and the raw socket to answer it on."""

    def __init__(self, request: Recorded, connection: Connection) -> None:
        self.request = request
        self._connection = connection

    async def send(self, data: bytes) -> None:
        """Writes ``data`` and waits while the peer does not read (ConnectionResetError if it has gone)."""
        await self._connection.send(data)
        self.request.sent_bytes += len(data)

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    def close(self) -> None:
        """Closes after what was sent: the peer sees FIN."""
        self._connection.leaving = True
        self._connection.transport.close()

    def reset(self) -> None:
        """Drops the connection: the peer sees RST."""
        self._connection.leaving = True
        sock = self._connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self._connection.transport.abort()

    async def forever(self) -> None:
        """Waits until the peer goes away or the fake is closed."""
        await asyncio.Event().wait()


Behaviour = Callable[[Exchange], Awaitable[None]]


class Owner(Protocol):
    """What a connection tells its server, and asks of it."""

    def opened(self, connection: Connection) -> asyncio.Task[None]: ...
    def closed(self, connection: Connection) -> None: ...
    def behaviour(self, request: Recorded) -> Behaviour: ...


class Connection(asyncio.Protocol):
    """One accepted connection: requests in, one behaviour at a time."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.transport: asyncio.Transport
        self.number = -1
        self.busy: Recorded | None = None
        self.leaving = False
        """This side closes: not a peer that went away."""
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not one by inheritance
        self.transport.set_write_buffer_limits(high=16384)
        self._task = self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        request = self.busy
        if request is not None and not self.leaving:
            request.disconnected_at = asyncio.get_running_loop().time()
            request._gone.set()
        self._owner.closed(self)
        self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def send(self, data: bytes) -> None:
        if self._lost or self.transport.is_closing():
            raise ConnectionResetError("the peer has gone")
        self.transport.write(data)
        await self._writable.wait()

    async def serve(self) -> None:
        """Requests one after another until the connection ends. A behaviour ends with it: it is cancelled."""
        while True:
            request = await self._read_request()
            self.busy = request
            try:
                await self._owner.behaviour(request)(Exchange(request, self))
            except ConnectionResetError:
                return
            finally:
                request.done.set()
                self.busy = None

    async def _read_request(self) -> Recorded:
        start, *lines = (await self._read_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = start.split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        if headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._read_body(headers)
        return Recorded(method, target, headers, body, self.number, asyncio.get_running_loop().time())

    async def _read_body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._read_exactly(int(headers.get("content-length", "0")))
        parts = []
        while size := int((await self._read_until(b"\r\n")).partition(b";")[0], 16):
            parts.append(await self._read_exactly(size))
            await self._read_exactly(2)
        while await self._read_until(b"\r\n") != b"\r\n":
            pass  # trailers
        return b"".join(parts)

    async def _read_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._wait_more()
        return self._take(at + len(mark))

    async def _read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._wait_more()
        return self._take(size)

    async def _wait_more(self) -> None:
        self._more.clear()
        await self._more.wait()

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
