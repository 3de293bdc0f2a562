"""The clients of a simulation: they send requests, go on with their sessions, and may lose patience."""

from __future__ import annotations

from typing import TYPE_CHECKING

from designer.simulator.records import RequestRecord
from designer.simulator.scenario import Clients as ClientTable
from designer.simulator.workload import shown_chunks
from gateway.core.events import ClientLeft
from gateway.core.pools import prefixes_are_read
from gateway.mockworker.engine import PS_PER_SECOND

if TYPE_CHECKING:
    from designer.simulator.world import World


class Clients:
    def __init__(self, world: World, table: ClientTable) -> None:
        self._world = world
        self._deadline_seconds = table.deadline_seconds
        timeout = table.timeout_seconds
        self._timeout_ps = None if timeout is None else round(timeout * PS_PER_SECOND)

    def send(self, now: int, record: RequestRecord) -> None:
        if self._timeout_ps is not None:
            self._world.at(now + self._timeout_ps, self._leave, record)
        if record.prefix is not None and prefixes_are_read(self._world.dispatcher.pools.values()):
            record.arrival.prefix_keys = shown_chunks(*record.prefix)
        self._world.hear(now, record.arrival)

    def go_on(self, now: int, record: RequestRecord, turn: RequestRecord) -> None:
        """A session ends with the first turn that gets no full answer."""
        if record.outcome == "completed":
            self._world.at(now + turn.think_ps, self._send_turn, turn)
        else:
            turn.sent(now, None)
            self._world.end(now, turn, "abandoned")

    def _send_turn(self, now: int, turn: RequestRecord) -> None:
        turn.sent(now, self._deadline_seconds)
        self.send(now, turn)

    def _leave(self, now: int, record: RequestRecord) -> None:
        if record.outcome is not None:
            return
        world = self._world
        world.end(now, record, "left")
        seen = 0
        if record.broken:
            seen = record.num_seen
        elif record.landed:
            worker = world.workers[record.worker]
            world.advance(now, worker)
            seen = worker.client_left(record)
        world.hear(now, ClientLeft(now / PS_PER_SECOND, record.request_id, seen))
