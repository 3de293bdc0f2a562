"""A scripted vLLM on loopback: real sockets, real bytes, and any misbehaviour a test asks for.

    async with FakeVllm([stream(3), close_mid_stream(after=1), error(503)]) as worker:
        ...  # the first POST is streamed, the second cut, the third and all later ones get 503
        assert worker.requests[0].json["stream"] is True
        await worker.requests[1].wait_disconnected()

A behaviour is ``async def behaviour(exchange)``; the functions below make the usual ones, a test may write
its own. It is cancelled when the peer goes away. The script is one behaviour for every request, or a sequence
(the nth request gets the nth, the last repeats); ``choose`` picks by request. /health, /metrics, /v1/models
and the like are answered as an idle vLLM does, without using up the script; ``routes`` overrides any path.
The fake never validates anything: what arrived is in ``requests``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from tests.support.fake_connection import Behaviour, Connection, Exchange, Recorded
from tests.support.vllm_bytes import (
    DONE,
    IDLE_METRICS,
    LAST_CHUNK,
    SSE_HEADERS,
    chunk,
    completion,
    dump,
    error_body,
    head,
    sse_event,
    sse_events,
)

__all__ = ["Behaviour", "Exchange", "FakeVllm", "Recorded"]

Script = Behaviour | Sequence[Behaviour]
Framing = Literal["chunked", "content-length", "close"]
"""How the end of a body is told: chunked, by its length, or by closing the connection."""


# --- behaviours -----------------------------------------------------------------------------------------------


def stream(
    chunks: int = 3,
    *,
    delay: float = 0.0,
    first_gap: float = 0.0,
    gap: float = 0.0,
    usage: bool | None = None,
    prompt_tokens: int = 16,
    cached: int | None = None,
    keep_alives: int = 0,
    framing: Framing = "chunked",
    close: bool = False,
    drop_idle: bool = False,
) -> Behaviour:
    """A well-behaved stream. Seconds: ``delay`` before the headers, ``first_gap`` between headers and first event,
    ``gap`` between events. ``keep_alives`` sends that many ``: keep-alive`` comments first, ``gap`` apart.
    ``close`` says ``Connection: close`` and does; ``drop_idle`` closes afterwards without having said so."""

    async def behave(exchange: Exchange) -> None:
        events = [b": keep-alive\n\n"] * keep_alives
        events += sse_events(exchange.request, chunks, prompt_tokens=prompt_tokens, usage=usage, cached=cached)
        await exchange.sleep(delay)
        await _send_events(exchange, events, first_gap, gap, framing, close)
        if close or drop_idle or framing == "close":
            exchange.close()

    return behave


async def _send_events(
    exchange: Exchange, events: Sequence[bytes], first_gap: float, gap: float, framing: Framing, close: bool = False
) -> None:
    headers = {"content-type": SSE_HEADERS["content-type"]}
    if framing == "chunked":
        headers = dict(SSE_HEADERS)
    elif framing == "content-length":
        headers["content-length"] = str(sum(map(len, events)))
    if close:
        headers["connection"] = "close"
    await exchange.send(head(200, headers))
    for i, event in enumerate(events):
        await exchange.sleep(gap if i else first_gap)
        await exchange.send(chunk(event) if framing == "chunked" else event)
    if framing == "chunked":
        await exchange.send(LAST_CHUNK)


def answer(
    body: bytes | Mapping[str, Any] | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    delay: float = 0.0,
    output_tokens: int = 3,
    prompt_tokens: int = 16,
    framing: Framing = "content-length",
    close: bool = False,
    drop_idle: bool = False,
) -> Behaviour:
    """A whole (not streamed) answer; without ``body`` a completion of ``output_tokens`` in vLLM's shape."""

    async def behave(exchange: Exchange) -> None:
        await exchange.sleep(delay)
        value = completion(exchange.request, output_tokens, prompt_tokens) if body is None else body
        data = value if isinstance(value, bytes) else dump(value)
        await exchange.send(_whole(status, data, headers or {}, framing, close))
        if close or drop_idle or framing == "close":
            exchange.close()

    return behave


def _whole(status: int, data: bytes, headers: Mapping[str, str], framing: Framing, close: bool) -> bytes:
    fields = {"content-type": "application/json", **headers}
    if framing == "content-length":
        fields["content-length"] = str(len(data))
    elif framing == "chunked":
        fields["transfer-encoding"] = "chunked"
    if close:
        fields["connection"] = "close"
    return head(status, fields) + ((chunk(data) + LAST_CHUNK) if framing == "chunked" else data)


def auto(chunks: int = 3, *, gap: float = 0.0, delay: float = 0.0) -> Behaviour:
    """Streams if the request says so, otherwise answers whole: what a healthy worker does."""
    streamed, whole = stream(chunks, gap=gap, delay=delay), answer(output_tokens=chunks, delay=delay)

    async def behave(exchange: Exchange) -> None:
        try:
            wanted = bool(exchange.request.json.get("stream"))
        except (ValueError, AttributeError):
            wanted = False
        await (streamed if wanted else whole)(exchange)

    return behave


def error(
    status: int, message: str = "scripted failure", *, delay: float = 0.0, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """An error answer in vLLM's shape (429 and 503 carry no Retry-After unless given in ``headers``)."""
    return answer(error_body(status, message), status=status, delay=delay, headers=headers)


def error_event(status: int = 503, *, after: int = 0, delay: float = 0.0, gap: float = 0.0) -> Behaviour:
    """HTTP 200, ``after`` events of a stream, then an error event and ``[DONE]``, as a vLLM whose queue is full
    (``after=0``) or whose engine dies in a stream does."""

    async def behave(exchange: Exchange) -> None:
        await exchange.sleep(delay)
        events = sse_events(exchange.request, after + 1)[:after]
        await _send_events(exchange, [*events, sse_event(error_body(status)), DONE], 0.0, gap, "chunked")

    return behave


def choose(pick: Callable[[Recorded], Behaviour]) -> Behaviour:
    """Behaves as ``pick(request)`` says."""
    return lambda exchange: pick(exchange.request)(exchange)


def close_before_first_byte(*, delay: float = 0.0, reset: bool = False) -> Behaviour:
    """Reads the request, then drops the connection without a byte."""

    async def behave(exchange: Exchange) -> None:
        await exchange.sleep(delay)
        exchange.reset() if reset else exchange.close()

    return behave


def close_after_headers(*, delay: float = 0.0, reset: bool = False) -> Behaviour:
    """Sends the head of a stream, then drops the connection without an event."""
    return close_mid_stream(after=0, delay=delay, reset=reset)


def close_mid_stream(
    after: int = 1, *, delay: float = 0.0, gap: float = 0.0, reset: bool = False, cut: int = 0
) -> Behaviour:
    """``after`` events of a stream and ``cut`` bytes of the next one, then the connection drops."""

    async def behave(exchange: Exchange) -> None:
        events = sse_events(exchange.request, after + 2)
        await exchange.sleep(delay)
        await exchange.send(head(200, SSE_HEADERS))
        for event in events[:after]:
            await exchange.send(chunk(event))
            await exchange.sleep(gap)
        await exchange.send(chunk(events[after])[:cut])
        exchange.reset() if reset else exchange.close()

    return behave


def close_mid_body(*, sent: int = 10, status: int = 200) -> Behaviour:
    """A whole answer of which only ``sent`` bytes of body come before the connection drops."""

    async def behave(exchange: Exchange) -> None:
        data = dump(completion(exchange.request, 3, 16))
        await exchange.send(_whole(status, data, {}, "content-length", close=False)[: sent - len(data)])
        exchange.close()

    return behave


def silent() -> Behaviour:
    """Accepts the request and never says a byte."""
    return lambda exchange: exchange.forever()


def stall_mid_stream(after: int = 1) -> Behaviour:
    """``after`` events of a stream, then silence with the connection open."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        for event in sse_events(exchange.request, after + 1)[:after]:
            await exchange.send(chunk(event))
        await exchange.forever()

    return behave


def slow_bytes(inner: Behaviour, *, size: int = 1, gap: float = 0.0) -> Behaviour:
    """What ``inner`` sends, but ``size`` bytes at a time with ``gap`` seconds between: slow headers, events cut
    anywhere."""

    async def behave(exchange: Exchange) -> None:
        slow = Exchange(exchange.request, exchange._connection)
        whole = slow.send

        async def send(data: bytes) -> None:
            for start in range(0, len(data), size):
                await whole(data[start : start + size])
                await asyncio.sleep(gap)

        slow.send = send  # type: ignore[method-assign]
        await inner(slow)

    return behave


def raw(*parts: bytes | float, then: Literal["close", "reset", "keep", "stall"] = "close") -> Behaviour:
    """The bytes given, as they are; a number is a pause in seconds."""

    async def behave(exchange: Exchange) -> None:
        for part in parts:
            await (exchange.send(part) if isinstance(part, bytes) else exchange.sleep(part))
        match then:
            case "close":
                exchange.close()
            case "reset":
                exchange.reset()
            case "stall":
                await exchange.forever()
            case "keep":
                pass

    return behave


def garbage() -> Behaviour:
    """Bytes that are not HTTP."""
    return raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


def garbage_in_stream(after: int = 1) -> Behaviour:
    """A stream whose chunked coding breaks after ``after`` events."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        for event in sse_events(exchange.request, after + 1)[:after]:
            await exchange.send(chunk(event))
        await exchange.send(b"zz\r\nnot a chunk\r\n")
        exchange.close()

    return behave


def flood(total: int, *, size: int = 4096) -> Behaviour:
    """A stream of ``total`` bytes as fast as the peer reads; ``Recorded.sent_bytes`` tells how far it got."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        event = chunk(sse_event({"pad": "x" * (size - 20)}))
        for _ in range(total // size):
            await exchange.send(event)
        await exchange.send(chunk(DONE) + LAST_CHUNK)

    return behave


# --- the server ----------------------------------------------------------------------------------------------


def idle_routes(model: str = "tiny") -> dict[str, Behaviour]:
    """What an idle vLLM answers to GETs."""
    card = {"id": model, "object": "model", "created": 1, "owned_by": "vllm", "root": model, "parent": None,
            "max_model_len": 2048}  # fmt: skip
    text = {"content-type": "text/plain; version=1.0.0; charset=utf-8"}
    return {
        "/health": answer(b""),
        "/ping": answer(b""),
        "/version": answer({"version": "0.32.0"}),
        "/load": answer({"server_load": 0}),
        "/metrics": answer(IDLE_METRICS.replace("MODEL", model).encode(), headers=text),
        "/v1/models": answer({"object": "list", "data": [card]}),
    }


class FakeVllm:
    """The server. Use it as an async context manager; it listens on loopback, port 0 by default."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        model: str = "tiny",
        routes: Mapping[str, Behaviour] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self.script: Script = auto() if script is None else script
        """May be replaced at any time; takes effect with the next request."""
        self.routes = {**idle_routes(model), **(routes or {})}
        self.all_requests: list[Recorded] = []
        """Every request, health checks and scrapes included."""
        self.requests: list[Recorded] = []
        """The requests the script answered (all but those of ``routes``)."""
        self.num_connections = 0
        """Connections accepted since the start."""
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.failures: list[BaseException] = []
        """What behaviours raised; a non-empty list fails ``__aexit__``."""

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def num_open_connections(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self.failures:
            raise ExceptionGroup("behaviours failed", [e for e in self.failures if isinstance(e, Exception)])

    async def listen(self) -> None:
        """Starts, or starts again on the same port after ``stop``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses new connections and drops the open ones, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.leaving = True
            connection.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop_idle(self) -> int:
        """Closes the connections on which no request is being answered; returns how many."""
        idle = [connection for connection in self._connections if connection.busy is None]
        for connection in idle:
            connection.leaving = True
            connection.transport.close()
        return len(idle)

    async def wait_requests(self, count: int, seconds: float = 5.0) -> list[Recorded]:
        """Returns when at least ``count`` scripted requests have come."""
        if len(self.requests) < count:
            arrived = asyncio.get_running_loop().create_future()
            self._waiters.append((count, arrived))
            await asyncio.wait_for(arrived, seconds)
        return self.requests

    async def wait_connections(self, count: int, seconds: float = 5.0) -> None:
        """Returns when exactly ``count`` connections are open; TimeoutError if that does not come."""
        async with asyncio.timeout(seconds):
            while len(self._connections) != count:  # noqa: ASYNC110 - a few milliseconds at most
                await asyncio.sleep(0.001)

    def opened(self, connection: Connection) -> asyncio.Task[None]:
        connection.number = self.num_connections
        self.num_connections += 1
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(connection.serve())
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, connection))
        return task

    def _ended(self, task: asyncio.Task[None], connection: Connection) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.failures.append(exc)
            connection.transport.abort()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _record(self, request: Recorded) -> None:
        self.all_requests.append(request)
        if request.path in self.routes:
            return
        self.requests.append(request)
        for count, arrived in self._waiters:
            if len(self.requests) >= count and not arrived.done():
                arrived.set_result(None)

    def behaviour(self, request: Recorded) -> Behaviour:
        """Records the request and says how to answer it."""
        self._record(request)
        if (fixed := self.routes.get(request.path)) is not None:
            return fixed
        if isinstance(self.script, Sequence):
            return self.script[min(len(self.requests), len(self.script)) - 1]
        return self.script


def sequence(*behaviours: Behaviour | Iterable[Behaviour]) -> list[Behaviour]:
    """Flattens: ``sequence([error(500)] * 3, stream())``."""
    return [b for item in behaviours for b in ([item] if callable(item) else item)]
