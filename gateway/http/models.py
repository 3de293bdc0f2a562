"""``GET /v1/models``: what all workers serve, each model once, asked for anew when the last answer is too old."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from gateway.http.answers import json_body
from gateway.http.exchange import Exchange
from gateway.http.incoming import IncomingRequest
from gateway.http.worker_connection import BreakReason, WorkerConnection
from gateway.http.worker_pool import WorkerPool

if TYPE_CHECKING:
    from gateway.http.client_connection import ClientConnection
    from gateway.http.data_plane import DataPlane

Model = dict[str, Any]


class ModelLists:
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._by_worker: dict[str, list[Model]] = {}
        self._asked_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    def begin(self, client: ClientConnection, incoming: IncomingRequest, request_id: str) -> None:
        """Answers now, or when the workers have been asked."""
        exchange = ModelsExchange(self._plane, client, incoming, request_id)
        client.begin(exchange)
        if self._plane.clock.time() - self._asked_at <= self._plane.settings.models_max_age_seconds:
            self._finish(exchange)
            return
        if self._refreshing is None:
            self._refreshing = self._plane.loop.create_task(self._refresh(incoming))
        self._refreshing.add_done_callback(lambda _: self._finish(exchange))

    def _finish(self, exchange: ModelsExchange) -> None:
        key = exchange.incoming.key
        models = [model for model in self.merged() if key is None or key.may_use(model["id"])]
        exchange.answer(200, json_body({"object": "list", "data": models}))

    def merged(self) -> list[Model]:
        """In the order of the workers; of models with the same id, the first."""
        models: dict[str, Model] = {}
        for worker_id in list(self._plane.num_worker_connections):
            for model in self._by_worker.get(worker_id, ()):
                models.setdefault(model["id"], model)
        return list(models.values())

    def forget(self, worker_id: str) -> None:
        self._by_worker.pop(worker_id, None)
        self._asked_at = float("-inf")

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    async def _refresh(self, incoming: IncomingRequest) -> None:
        """Asks with the headers of the request that found the lists too old, as a worker may want its key."""
        try:
            async with asyncio.TaskGroup() as group:
                for pool in self._plane.healthy_pools():
                    group.create_task(self._ask(pool, incoming))
            self._asked_at = self._plane.clock.time()
        finally:
            self._refreshing = None

    async def _ask(self, pool: WorkerPool, incoming: IncomingRequest) -> None:
        fetch = Fetch(pool, incoming)
        try:
            async with asyncio.timeout(self._plane.settings.models_timeout_seconds):
                status, body = await fetch.result
        except TimeoutError:
            fetch.give_up()
            return
        if status == 200:
            self._by_worker[pool.worker_id] = _models(body)


def _models(body: bytes) -> list[Model]:
    try:
        data = orjson.loads(body)["data"]
    except (ValueError, KeyError, TypeError):
        return []
    models = data if isinstance(data, list) else []
    return [model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]


class ModelsExchange(Exchange):
    """Waits for the lists; has no worker of its own."""

    __slots__ = ()


class Fetch:
    """A GET of the gateway's own."""

    decoded = True

    def __init__(self, pool: WorkerPool, incoming: IncomingRequest) -> None:
        self.result: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        """Status and body; status 0 if there was no whole answer."""
        self._incoming = incoming
        self._connection: WorkerConnection | None = None
        self._body = b""
        self._connecting = pool.connect(self)

    def connected(self, connection: WorkerConnection) -> None:
        self._connection = connection
        connection.start(self, _GET_MODELS % (connection.pool.base_path, self._head(connection.pool)), b"")

    def _head(self, pool: WorkerPool) -> bytes:
        keys = [line for line in self._incoming.headers if line.lower().startswith(b"authorization:")]
        return b"host: %b\r\n%b" % (pool.host_header, pool.authorization or b"".join(keys))

    def head(self, connection: WorkerConnection, data: bytes) -> None:
        self._body = data

    def receive(self, data: bytes) -> None:
        self._body += data

    def end(self) -> None:
        connection = self._connection
        self._settle(connection.status if connection is not None else 0)

    def broken(self, reason: BreakReason) -> None:
        self._settle(0)

    def _settle(self, status: int) -> None:
        if not self.result.done():
            self.result.set_result((status, self._body))

    def give_up(self) -> None:
        self._connecting.exchange = None
        if self._connection is not None and self._connection.exchange is self:
            self._connection.abort()


_GET_MODELS = b"GET %b/v1/models HTTP/1.1\r\n%bconnection: close\r\n\r\n"
