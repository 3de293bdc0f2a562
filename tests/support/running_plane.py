"""The data plane with the real dispatcher on loopback, and a client that speaks raw HTTP to it.

async with FakeVllm() as one, running_plane([one]) as plane, plane.client() as client:
    answer = await client.ask(chat(stream=True))
    assert answer.status == 200 and plane.num_inflight == 0
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.commands import Cancel, Command, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import Event, WorkerJoined
from gateway.core.pool import PoolConfig
from gateway.http.data_plane import DataPlane
from gateway.http.metrics import Ending
from gateway.http.settings import HttpSettings
from gateway.runtime import Runtime
from tests.support.fake_vllm import FakeVllm

QUICK = HttpSettings(sweep_seconds=0.04)


@dataclass(slots=True)
class Finished:
    """What the metrics were told of one request."""

    path: str
    model: str
    tenant: str
    worker_id: str
    status: int
    ending: Ending
    queue_seconds: float
    ttft_seconds: float | None
    e2e_seconds: float
    num_prompt_tokens: int | None
    num_output_tokens: int


@dataclass(slots=True)
class RecordedMetrics:
    finished: list[Finished] = field(default_factory=list)
    retried: list[tuple[str, str]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def request_finished(self, *values: Any) -> None:
        self.finished.append(Finished(*values))

    def request_retried(self, worker_id: str, reason: str) -> None:
        self.retried.append((worker_id, reason))

    def request_refused(self, status: int) -> None:
        self.refused.append(status)


class RunningPlane:
    """A data plane that listens, with what it told the dispatcher and what that answered."""

    def __init__(self, settings: HttpSettings, pool: PoolConfig, worker_tls: ssl.SSLContext | None = None) -> None:
        self.metrics = RecordedMetrics()
        tokens: dict[str, int] = {}
        self.dispatcher = Dispatcher([pool], output_tokens=tokens)
        self.runtime = Runtime(self.dispatcher, executor=self, event_log=self._log)
        self.data_plane = DataPlane(self.runtime, settings, self.metrics, tokens, worker_tls)
        self.tokens = tokens
        self.events: list[Event] = []
        self.commands: list[Command] = []
        self.port = 0

    def _log(self, event: Event, read: Mapping[str, int], commands: Sequence[Command]) -> None:
        self.events.append(event)
        self.commands.extend(commands)

    # --- the executor

    def dispatch(self, command: Dispatch) -> None:
        self.data_plane.dispatch(command)

    def reject(self, command: Reject) -> None:
        self.data_plane.reject(command)

    def cancel(self, command: Cancel) -> None:
        self.data_plane.cancel(command)

    def set_replicas(self, command: SetReplicas) -> None:
        raise AssertionError(command)

    def policy_set_retired(self, command: PolicySetRetired) -> None:
        raise AssertionError(command)

    # --- for tests

    def add(self, worker: FakeVllm, worker_id: str, api_key: str | None = None) -> None:
        self.data_plane.add_worker(worker_id, worker.url, api_key)
        self.runtime.submit(WorkerJoined(self.runtime.clock.time(), worker_id, "pool"))

    def seen(self, kind: type[Any]) -> list[Any]:
        """The events of that type, in order."""
        return [event for event in self.events if type(event) is kind]

    def answered(self, kind: type[Any]) -> list[Any]:
        """The commands of that type, in order."""
        return [command for command in self.commands if type(command) is kind]

    @property
    def num_inflight(self) -> int:
        """By the dispatcher's own account, over all workers, and the requests it knows of."""
        workers = self.dispatcher.pools["pool"].workers.values()
        return sum(worker.num_inflight_requests for worker in workers) + self.dispatcher.num_requests

    async def until(self, condition: Any, seconds: float = 5.0) -> None:
        """Returns when ``condition()`` holds; TimeoutError if that does not come."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - a few milliseconds at most
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def client(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def running_plane(
    workers: Sequence[FakeVllm] = (),
    settings: HttpSettings = QUICK,
    *,
    clean: bool = True,
    tls: ssl.SSLContext | None = None,
    worker_tls: ssl.SSLContext | None = None,
    **pool: Any,
) -> AsyncIterator[RunningPlane]:
    """Workers are named ``w0``, ``w1`` … in their order. ``clean`` checks at the end that nothing is left behind."""
    plane = RunningPlane(settings, PoolConfig("pool", **pool), worker_tls)
    for i, worker in enumerate(workers):
        plane.add(worker, f"w{i}")
    plane.port = await plane.data_plane.start("127.0.0.1", 0, tls)
    plane.runtime.start(0.02)
    try:
        yield plane
        if clean:
            await plane.until(lambda: plane.num_inflight == 0)
            assert plane.data_plane.num_requests == 0
            assert plane.data_plane.num_buffered_body_bytes == 0
            assert plane.runtime.num_errors == 0
    finally:
        plane.runtime.stop()
        await plane.data_plane.close()


def with_settings(**values: Any) -> HttpSettings:
    return replace(QUICK, **values)


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    complete: bool
    """It came to the end that its framing promised."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of an event stream, JSON decoded but for ``[DONE]``."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """The tokens of a chat or completion stream."""
        choices = [event["choices"][0] for event in self.events if isinstance(event, dict) and event.get("choices")]
        return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


class Client:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, seconds: float = 5.0) -> Answer:
        await self.send(data)
        return await self.receive(seconds, head_only=data.startswith(b"HEAD "))

    def leave(self) -> None:
        """Closes the connection with a reset."""
        self.writer.transport.abort()

    async def receive(self, seconds: float = 5.0, *, head_only: bool = False) -> Answer:
        """The next answer (1xx are answers too); ConnectionError if none comes."""
        async with asyncio.timeout(seconds):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"no answer, but {error.partial!r}") from None
            start, *lines = head.decode("latin-1").split("\r\n")
            status = int(start.split(" ")[1])
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            if head_only or status < 200 or status in (204, 304):
                return Answer(status, headers, b"", True)
            return Answer(status, headers, *await self._body(headers))

    async def _body(self, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    parts.append((await self.reader.readexactly(size + 2))[:-2])
                await self.reader.readuntil(b"\r\n")
            elif "content-length" in headers:
                parts.append(await self.reader.readexactly(int(headers["content-length"])))
            else:
                while piece := await self.reader.read(65536):
                    parts.append(piece)
        except asyncio.IncompleteReadError as error:
            return b"".join([*parts, error.partial]), False
        except ConnectionError:
            return b"".join(parts), False
        return b"".join(parts), True

    async def closed(self, seconds: float = 5.0) -> bool:
        """Whether the gateway closes the connection without another byte."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "host: gateway", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: gateway", *headers]).encode() + b"\r\n\r\n"


def chat(*headers: str, version: str = "1.1", content: str = "hi", **fields: Any) -> bytes:
    """A chat request in full."""
    value = {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}
    return post("/v1/chat/completions", json.dumps(value).encode(), *headers, version=version)


def stream_chat(*headers: str, version: str = "1.1", **fields: Any) -> bytes:
    return chat(*headers, version=version, stream=True, **fields)
