"""Workers that break down in a simulation, the requests they take with them, and when the gateway hears of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from designer.simulator.failures import Breakdown
from designer.simulator.records import NEVER, RequestRecord
from designer.simulator.worker import SimulatedWorker
from gateway.core.events import RequestEnded, WorkerHealthChanged
from gateway.mockworker.engine import PS_PER_SECOND

if TYPE_CHECKING:
    from designer.simulator.world import World


class Outages:
    def __init__(self, world: World, answer_ps: int) -> None:
        self._world = world
        self._answer_ps = answer_ps
        self.num_failed_dispatches = 0

    def schedule(self, breakdowns: Iterable[Breakdown]) -> None:
        for breakdown in breakdowns:
            self._world.at(breakdown.time, self._break, breakdown)

    def landed_while_down(self, now: int, record: RequestRecord, worker: SimulatedWorker) -> None:
        """Its connection is refused at once, or breaks when the worker that hangs is restarted."""
        record.broken = True
        self._world.at((worker.up_at if worker.hangs else now) + self._answer_ps, self._failure_heard, record)

    def _break(self, now: int, breakdown: Breakdown) -> None:
        """A worker stops working; nothing happens if it is gone, or down already."""
        failure, worker, world = breakdown.failure, self._victim(breakdown), self._world
        if worker is None or now < worker.up_at:
            return
        world.advance(now, worker)
        hit = [r for r in world.records if r.worker == worker.index and r.landed and r.stats is None and not r.broken]
        hangs = failure.kind == "hang"
        worker.break_down(hit, now + round(failure.down_seconds * PS_PER_SECOND), hangs=hangs)
        heard = (worker.up_at if hangs else now) + self._answer_ps
        for record in hit:
            world.at(heard, self._failure_heard, record)
        detection = round(failure.detection_seconds * PS_PER_SECOND)
        world.at(now + detection, self._health_seen, (worker, False))
        world.at(worker.up_at + detection, self._health_seen, (worker, True))

    def _victim(self, breakdown: Breakdown) -> SimulatedWorker | None:
        workers = self._world.workers
        if (place := breakdown.failure.worker) is not None:
            return None if workers[place].gone else workers[place]
        present = [worker for worker in workers if not worker.gone]
        return present[int(breakdown.share * len(present))]

    def _failure_heard(self, now: int, record: RequestRecord) -> None:
        """Its connection broke. Once a token has reached the client, no other worker can take over."""
        if record.outcome is not None:
            return
        self.num_failed_dispatches += 1
        retriable = record.first_token == NEVER or not record.stream
        seen = record.num_seen
        if retriable:
            record.failed()
        else:
            self._world.end(now, record, "failed")
        time = now / PS_PER_SECOND
        event = RequestEnded(time, record.request_id, "failed", num_output_tokens=seen, retriable=retriable)
        self._world.hear(now, event)

    def _health_seen(self, now: int, what: tuple[SimulatedWorker, bool]) -> None:
        worker, healthy = what
        if not worker.gone:
            self._world.hear(now, WorkerHealthChanged(now / PS_PER_SECOND, worker.plan.worker_id, healthy))
