"""Which workers exist: brings what the sources want and what is there together.

A worker joins the dispatcher at its first answer and leaves it drained: it takes nothing new, and goes when
its last request has ended or its time is up. Sources never see each other's workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.config import WorkerSection
from gateway.core.events import Event, WorkerDraining, WorkerJoined, WorkerLeft, WorkerMetrics
from gateway.errors import WorkerRefusedError

log = logging.getLogger(__name__)

State = Literal["connecting", "ready", "draining"]
_DRAIN_POLL_SECONDS = 0.05


class WorkerTable(Protocol):
    """The data plane's side of a worker: it is added before it joins and removed after it left."""

    def add_worker(self, worker_id: str, url: str, api_key: str | None = None) -> None: ...
    def remove_worker(self, worker_id: str) -> None: ...


class WorkerWatcher(Protocol):
    """The scraper's side of a worker."""

    def watch(self, worker: WorkerSection) -> None: ...
    async def forget(self, worker_id: str) -> None: ...


@dataclass(slots=True)
class Member:
    worker: WorkerSection
    source: str
    state: State = "connecting"
    joined: bool = False
    removal: asyncio.Task[None] | None = None


class Membership:
    """Args:
    submit: takes the events.
    clock: the runner's monotonic clock, seconds.
    in_flight: requests of a worker that have not ended.
    left: told of each worker that is gone.
    drain_seconds: how long a worker that is to go may finish what it has.
    """

    def __init__(
        self,
        submit: Callable[[Event], None],
        clock: Callable[[], float],
        table: WorkerTable,
        in_flight: Callable[[str], int],
        left: Callable[[str], None] = lambda worker_id: None,
        drain_seconds: float = 30.0,
    ) -> None:
        self._submit, self._clock, self._table = submit, clock, table
        self._in_flight, self._left, self.drain_seconds = in_flight, left, drain_seconds
        self._watcher: WorkerWatcher | None = None
        self._wanted: dict[str, dict[str, WorkerSection]] = {}
        self._replicas: set[str] = set()
        self.members: dict[str, Member] = {}

    def attach(self, watcher: WorkerWatcher) -> None:
        """The watcher reports first answers to ``joined``, so each needs the other: this closes the ring."""
        self._watcher = watcher

    def apply(self, source: str, workers: Iterable[WorkerSection]) -> None:
        """``workers`` is now all that ``source`` wants."""
        self._wanted[source] = {w.worker_id: w for w in workers}
        self._reconcile()

    def add(self, worker: WorkerSection, source: str = "admin", replica: bool = False) -> None:
        """One more worker of ``source``. WorkerRefusedError when its id is taken."""
        if worker.worker_id in self.members:
            raise WorkerRefusedError(f"worker {worker.worker_id} is there already; remove it first or give another id")
        if replica:
            self._replicas.add(worker.worker_id)
        self._wanted.setdefault(source, {})[worker.worker_id] = worker
        self._reconcile()

    def wanted(self, source: str) -> list[WorkerSection]:
        """What the source wants to be there at the moment."""
        return list(self._wanted.get(source, {}).values())

    def drain(self, worker_id: str) -> None:
        """It takes nothing new and stays listed until it is removed."""
        member = self._member(worker_id)
        if member.state == "ready":
            self._submit(WorkerDraining(self._clock(), worker_id))
            log.info("worker draining", extra={"worker": worker_id})
        member.state = "draining"

    def remove(self, worker_id: str) -> asyncio.Task[None]:
        """Drains, then forgets; the task ends when the worker is gone."""
        member = self._member(worker_id)
        for wanted in self._wanted.values():
            wanted.pop(worker_id, None)
        return self._begin_removal(member)

    def joined(self, worker: WorkerSection, models: tuple[str, ...], metrics: WorkerMetrics | None) -> None:
        """The worker answered for the first time, or serves other models than it did."""
        member = self.members.get(worker.worker_id)
        if member is None or member.state == "draining":
            return
        replica = worker.worker_id in self._replicas and not member.joined
        member.state, member.joined = "ready", True
        known = _sizes(worker, metrics)
        pool = worker.pool or ""
        log.info("worker joined", extra={"worker": worker.worker_id, "pool": pool, "models": ",".join(models)})
        self._submit(WorkerJoined(self._clock(), worker.worker_id, pool, worker.variant, models, known, replica))

    async def close(self) -> None:
        """Ends removals under way without waiting for their requests."""
        removals = [m.removal for m in self.members.values() if m.removal]
        for removal in removals:
            removal.cancel()
        if removals:
            await asyncio.wait(removals)

    def _member(self, worker_id: str) -> Member:
        member = self.members.get(worker_id)
        if member is None:
            raise WorkerRefusedError(f"no worker is called {worker_id}; GET /admin/workers lists them")
        return member

    def _reconcile(self) -> None:
        wanted = {id_: (source, w) for source, ws in self._wanted.items() for id_, w in ws.items()}
        for worker_id, (source, worker) in wanted.items():
            if worker_id not in self.members:
                self._join(worker, source)
        for member in list(self.members.values()):
            if wanted.get(member.worker.worker_id) != (member.source, member.worker):
                self._begin_removal(member)

    def _join(self, worker: WorkerSection, source: str) -> None:
        assert self._watcher is not None  # noqa: S101 attach() comes before the first source
        self.members[worker.worker_id] = Member(worker, source)
        self._table.add_worker(worker.worker_id, worker.url, worker.api_key)
        self._watcher.watch(worker)

    def _begin_removal(self, member: Member) -> asyncio.Task[None]:
        if member.removal is None:
            member.removal = asyncio.get_running_loop().create_task(self._remove(member))
        return member.removal

    async def _remove(self, member: Member) -> None:
        worker_id = member.worker.worker_id
        self.drain(worker_id)
        if self._watcher:
            await self._watcher.forget(worker_id)
        deadline = self._clock() + self.drain_seconds
        while self._in_flight(worker_id) and self._clock() < deadline:  # noqa: ASYNC110 a count, not a condition
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        if member.joined:
            self._submit(WorkerLeft(self._clock(), worker_id))
        self._table.remove_worker(worker_id)
        self.members.pop(worker_id, None)
        self._replicas.discard(worker_id)
        self._left(worker_id)
        log.info("worker left", extra={"worker": worker_id})
        self._reconcile()


def _sizes(worker: WorkerSection, metrics: WorkerMetrics | None) -> WorkerMetrics:
    """What the worker reports, and where it is silent what the configuration says."""
    known = metrics or WorkerMetrics()
    return WorkerMetrics(
        num_requests_running=known.num_requests_running,
        num_requests_waiting=known.num_requests_waiting,
        kv_cache_usage=known.kv_cache_usage,
        kv_capacity_tokens=known.kv_capacity_tokens or worker.kv_capacity_tokens,
        block_size=known.block_size or worker.block_size,
        max_num_seqs=known.max_num_seqs or worker.max_num_seqs,
    )
