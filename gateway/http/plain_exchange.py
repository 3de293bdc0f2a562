"""A request that no policy decides on: everything a worker serves beside the paths that a model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.exchange import Exchange
from gateway.http.incoming import IncomingRequest
from gateway.http.worker_connection import BreakReason
from gateway.http.worker_pool import WorkerPool

if TYPE_CHECKING:
    from gateway.http.client_connection import ClientConnection
    from gateway.http.data_plane import DataPlane


class PlainExchange(Exchange):
    """It goes to any healthy worker, and to another while none was reached (or while asking twice does no harm)."""

    __slots__ = ("_untried",)

    def __init__(
        self,
        plane: DataPlane,
        client: ClientConnection,
        incoming: IncomingRequest,
        request_id: str,
        pools: list[WorkerPool],
    ) -> None:
        super().__init__(plane, client, incoming, request_id)
        self._untried = pools[: plane.settings.passthrough_attempts]
        if incoming.accept_encoding:
            incoming.headers.append(b"accept-encoding: %b\r\n" % incoming.accept_encoding)

    def begin(self) -> None:
        if self._untried:
            self.send(self._untried.pop(0))
        else:
            self.refuse(503, "There is no healthy worker at the moment.")

    def end(self) -> None:
        self.connection = None
        self.leave_client()

    def attempt_failed(self, reason: BreakReason) -> None:
        safe = reason == "connect" or self.incoming.method in (b"GET", b"HEAD", b"OPTIONS")
        if safe and self._untried:
            self.begin()
        elif reason == "timeout":
            self.refuse(504, "The worker did not answer in time.")
        else:
            self.refuse(502, "The worker could not be reached or broke off before it answered.")

    def ended_broken(self, reason: BreakReason) -> None:
        self.leave_client()
