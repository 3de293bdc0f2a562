"""The data plane: listens for clients, keeps connections to workers, and carries out what the dispatcher decides.

It is the ``dispatch``, ``reject`` and ``cancel`` of an executor. All of it runs on one event loop; nothing blocks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import MutableMapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from gateway.core.commands import Cancel, Dispatch, Reject
from gateway.core.events import RequestArrived
from gateway.core.pools import prefixes_are_read
from gateway.http.answers import error_body, rejection, retry_header
from gateway.http.client_connection import ClientConnection
from gateway.http.exchange import Exchange
from gateway.http.incoming import IncomingRequest, is_request_id, parse_milliseconds
from gateway.http.metrics import DataPlaneMetrics, NoMetrics
from gateway.http.model_exchange import ModelExchange
from gateway.http.models import ModelLists
from gateway.http.plain_exchange import PlainExchange
from gateway.http.settings import HttpSettings
from gateway.http.sweeper import Sweeper, Swept
from gateway.http.worker_pool import WorkerPool
from gateway.openai_api import (
    ADMINISTRATIVE_PATHS,
    CHUNK_BYTES,
    MODEL_PATHS,
    ApiRequest,
    BadRequestError,
    canonical_path,
    prefix_keys,
    read_body,
    read_form,
)
from gateway.runtime import Runtime

if TYPE_CHECKING:
    from gateway.api_keys import ApiKeys


class DataPlane:
    """Construct it inside a running event loop.

    Args:
        runtime: hears of requests, and is to be bound to an executor that passes its commands on to this object.
        output_tokens: by worker, the live counts that the dispatcher was given; changed here.
        worker_tls: for https workers; None: the system's authorities.
    """

    def __init__(
        self,
        runtime: Runtime,
        settings: HttpSettings | None = None,
        metrics: DataPlaneMetrics | None = None,
        output_tokens: MutableMapping[str, int] | None = None,
        worker_tls: ssl.SSLContext | None = None,
    ) -> None:
        self._worker_tls = worker_tls
        self.runtime = runtime
        self.clock = runtime.clock
        self.settings = settings if settings is not None else HttpSettings()
        self.metrics: DataPlaneMetrics = metrics if metrics is not None else NoMetrics()
        self.output_tokens: MutableMapping[str, int] = {} if output_tokens is None else output_tokens
        """By worker: output tokens seen from it since it was added."""
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.about_to_drain = False
        """Requests are still taken, but ``/health`` says no, for load balancers to look elsewhere."""
        self.api_keys: ApiKeys | None = None
        """Replaced whole, for the requests that come after; None: anybody may ask anything."""
        self.num_buffered_body_bytes = 0
        """Of request bodies held at the moment."""
        self._sweeper = Sweeper(self.clock, self.settings.sweep_seconds)
        self._pools: dict[str, WorkerPool] = {}
        self._exchanges: dict[str, ModelExchange] = {}
        self._clients: set[ClientConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._models = ModelLists(self)
        self._next_plain = 0
        self._id_prefix = os.urandom(6).hex()
        self._ids = count(1)
        self._empty: asyncio.Event = asyncio.Event()

    # --- for the shell

    @property
    def num_client_connections(self) -> int:
        return len(self._clients)

    @property
    def num_requests(self) -> int:
        """To models, held or in flight."""
        return len(self._exchanges)

    @property
    def num_worker_connections(self) -> dict[str, tuple[int, int]]:
        """By worker: connections open, and of these idle."""
        return {name: (pool.num_connections, pool.num_idle_connections) for name, pool in self._pools.items()}

    def add_worker(self, worker_id: str, url: str, api_key: str | None = None) -> None:
        """Must come before the ``WorkerJoined`` event. ``api_key`` replaces what clients send it as authorization.
        ``ValueError`` if the URL is none, or the id is taken."""
        if worker_id in self._pools:
            raise ValueError(f"worker {worker_id} is there already")
        self._pools[worker_id] = WorkerPool(
            worker_id, url, self.settings, self._sweeper, self.clock, api_key, self._worker_tls
        )
        self.output_tokens[worker_id] = 0

    def reconfigure(self, settings: HttpSettings) -> None:
        """Other limits and timeouts, for what runs as well; how it listens and sweeps stays."""
        self.settings = settings
        for pool in self._pools.values():
            pool.settings = settings

    def remove_worker(self, worker_id: str) -> None:
        """Must come after the ``WorkerLeft`` event. What still runs there ends: another worker gets it if no byte of an
        answer was sent, a stream ends in an error."""
        pool = self._pools.pop(worker_id, None)
        if pool is not None:
            pool.remove()
            self.output_tokens.pop(worker_id, None)
            self._models.forget(worker_id)

    async def start(
        self, host: str, port: int, tls: ssl.SSLContext | None = None, given: socket.socket | None = None
    ) -> int:
        """Listens, with ``tls`` for https; returns the port (for port 0). ``OSError`` if it is taken. May be called for
        several hosts. ``given``: a socket that listens already, instead of a host and port."""
        where = {"host": host, "port": port, "reuse_port": self.settings.reuse_port or None}
        server = await self.loop.create_server(
            lambda: cast(asyncio.Protocol, ClientConnection(self)),
            **(where if given is None else {"sock": given}),
            backlog=self.settings.backlog,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self.settings.header_timeout_seconds or None,
        )
        if not self._servers:
            self._sweeper.start()
        self._servers.append(server)
        sockets = cast(Sequence[socket.socket], cast(Any, server).sockets)  # a list of uvloop's, a tuple of asyncio's
        return int(sockets[0].getsockname()[1])

    async def drain(self, grace_seconds: float) -> bool:
        """Accepts no more connections, lets what runs come to its end for ``grace_seconds``, ends the rest with an
        error. Whether everything came to its own end."""
        self.draining = True
        for server in self._servers:
            server.close()
        for client in tuple(self._clients):
            client.close_if_idle()
        in_time = await self._wait_empty(grace_seconds)
        for client in tuple(self._clients):
            client.shut_down()
        await self._wait_empty(1.0)
        await self.close()
        return in_time

    async def close(self) -> None:
        """Drops everything at once."""
        self.draining = True
        self._sweeper.stop()
        for server in self._servers:
            server.close()
        for client in tuple(self._clients):
            client.transport.abort()
        for pool in self._pools.values():
            pool.close()
        await self._models.close()
        await asyncio.sleep(0)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    async def _wait_empty(self, seconds: float) -> bool:
        if not self._clients:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True

    # --- commands

    def dispatch(self, command: Dispatch) -> None:
        exchange = self._exchanges.get(command.request_id)
        if exchange is None:
            return  # the client left meanwhile
        pool = self._pools.get(command.worker_id)
        if pool is None:
            exchange.worker_id = command.worker_id
            exchange.attempt_failed("removed")
        else:
            exchange.dispatch(pool, self.clock.now)  # read for the event that led to this

    def reject(self, command: Reject) -> None:
        exchange = self._exchanges.get(command.request_id)
        if exchange is None:
            return
        last = exchange.last_error
        if last is not None and command.reason in ("attempts", "no_worker"):
            exchange.rejected(last[0], last[1], retry_header(command) if last[0] in (429, 503) else b"")
        else:
            exchange.rejected(*rejection(command, exchange.model))

    def cancel(self, command: Cancel) -> None:
        exchange = self._exchanges.get(command.request_id)
        if exchange is not None:
            exchange.drop_attempt()

    # --- for connections and exchanges

    def client_connected(self, client: ClientConnection) -> set[Swept]:
        self._clients.add(client)
        return self._sweeper.add(client)

    def client_disconnected(self, client: ClientConnection) -> None:
        self._clients.discard(client)
        if not self._clients:
            self._empty.set()

    def body_released(self, incoming: IncomingRequest) -> None:
        """Its body will not be needed again. Idempotent."""
        self.num_buffered_body_bytes -= incoming.num_buffered_bytes
        incoming.num_buffered_bytes = 0
        incoming.body = b""

    def forget(self, exchange: ModelExchange) -> float:
        """The request is over; returns the time."""
        self._exchanges.pop(exchange.request_id, None)
        return self.clock.time()

    def healthy_pools(self) -> list[WorkerPool]:
        """Workers that take requests, beginning with another each time."""
        ready = [
            worker_id
            for state in self.runtime.dispatcher.pools.values()
            for worker_id, worker in state.workers.items()
            if worker.takes_requests
        ]
        pools = [pool for worker_id in ready if (pool := self._pools.get(worker_id)) is not None]
        if pools:
            self._next_plain = at = (self._next_plain + 1) % len(pools)
            pools = pools[at:] + pools[:at]
        return pools

    # --- requests

    def handle(self, client: ClientConnection, incoming: IncomingRequest) -> None:
        """Begins to answer a request that has come in full."""
        if incoming.path in MODEL_PATHS and incoming.method == b"POST":
            self.ask_model(client, incoming)
        else:
            self._handle_other(client, incoming)

    def ask_model(self, client: ClientConnection, incoming: IncomingRequest) -> None:
        """Begins to answer a request to a model, a POST to one of ``MODEL_PATHS``."""
        try:
            form = incoming.content_type.startswith(b"multipart/form-data")
            api = read_form(incoming.body) if form else read_body(incoming.body)
        except BadRequestError as error:
            self._refuse(client, incoming, 400, error.message, error.param)
            return
        key = incoming.key
        lowest, highest = self.settings.priority_range
        if key is None:
            tenant = incoming.tenant.decode("latin-1") or "default"
            api.priority = max(lowest, min(highest, api.priority))
        elif key.may_use(api.model):
            tenant = key.tenant
            api.priority = key.priority + max(min(0, lowest), min(0, api.priority))
        else:
            message = f"The model `{api.model}` does not exist or this API key may not use it."
            self._refuse(client, incoming, 404, message, "model")
            return
        request_id = self._request_id(incoming)
        now = self.clock.time()
        exchange = ModelExchange(self, client, incoming, request_id, api.model, tenant, now)
        self._exchanges[request_id] = exchange
        client.begin(exchange)
        self.runtime.submit(self._arrived(incoming, api, request_id, tenant, now))

    def _arrived(
        self, incoming: IncomingRequest, api: ApiRequest, request_id: str, tenant: str, now: float
    ) -> RequestArrived:
        deadline = parse_milliseconds(incoming.deadline_ms) if incoming.deadline_ms else None
        return RequestArrived(
            now,
            request_id,
            api.model,
            tenant,
            incoming.session_id.decode("latin-1") or api.session_id,
            api.num_prompt_bytes,
            api.num_prompt_tokens,
            api.max_tokens,
            api.priority,
            parse_milliseconds(incoming.ttft_slo_ms) if incoming.ttft_slo_ms else None,
            now + deadline if deadline is not None else None,
            self._prefix_keys(api, incoming),
            api.stream,
        )

    def _prefix_keys(self, api: ApiRequest, incoming: IncomingRequest) -> tuple[tuple[int, int], ...]:
        if len(incoming.body) >= CHUNK_BYTES and prefixes_are_read(self.runtime.dispatcher.pools.values()):
            return prefix_keys(api)
        return ()

    def _request_id(self, incoming: IncomingRequest) -> str:
        """The client's own, if it may be used and is not in flight; else one of ours."""
        own = incoming.request_id
        if own and is_request_id(own) and (request_id := own.decode("ascii")) not in self._exchanges:
            return request_id
        return f"{self._id_prefix}{next(self._ids):08x}"

    def _handle_other(self, client: ClientConnection, incoming: IncomingRequest) -> None:
        path = canonical_path(incoming.path)
        reading = incoming.method in (b"GET", b"HEAD")
        if path.encode("utf-8", "replace") in MODEL_PATHS and incoming.method == b"POST":
            incoming.path = path.encode()
            self.ask_model(client, incoming)
        elif path == "/health" and reading:
            self._answer_health(client, incoming)
        elif path == "/v1/models" and reading:
            self._models.begin(client, incoming, self._request_id(incoming))
        elif path in ADMINISTRATIVE_PATHS and not self._may_administer(path):
            message = f"{path} changes a worker's state and is not open on this port (administrative_paths)."
            self._refuse(client, incoming, 403, message)
        elif incoming.upgrade.lower() == b"websocket":
            self._refuse(client, incoming, 501, "WebSockets are not passed on.")
        else:
            exchange = PlainExchange(self, client, incoming, self._request_id(incoming), self.healthy_pools())
            client.begin(exchange)
            exchange.begin()

    def _may_administer(self, path: str) -> bool:
        allowed = self.settings.administrative_paths
        return path in allowed or "*" in allowed

    def _answer_health(self, client: ClientConnection, incoming: IncomingRequest) -> None:
        """The gateway's own: 200 while it is to be sent requests and has a healthy worker."""
        if self.draining or self.about_to_drain:
            self._answer(client, incoming, 503, error_body(503, "The gateway is shutting down."))
        elif not self.healthy_pools():
            self._answer(client, incoming, 503, error_body(503, "There is no healthy worker at the moment."))
        else:
            self._answer(client, incoming, 200, b"{}")

    def _refuse(
        self, client: ClientConnection, incoming: IncomingRequest, status: int, message: str, param: str | None = None
    ) -> None:
        self.metrics.request_refused(status)
        self._answer(client, incoming, status, error_body(status, message, param))

    def _answer(self, client: ClientConnection, incoming: IncomingRequest, status: int, body: bytes) -> None:
        Exchange(self, client, incoming, self._request_id(incoming)).answer(status, body)
