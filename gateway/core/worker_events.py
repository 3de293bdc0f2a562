"""What the dispatcher does when workers join, leave, change or are scraped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.decisions import Decisions
from gateway.core.events import (
    Event,
    MetricsScraped,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerJoined,
    WorkerLeft,
)
from gateway.core.pool import PoolState
from gateway.core.pools import check_known
from gateway.core.worker_state import WorkerState

Handling = tuple[Callable[[Any], None] | None, Callable[[Any, float], None]]
"""Of an event: what refuses it before anything has changed, if something does; and what takes it in, with the time."""


class WorkerEvents:
    """Of one dispatcher, over all pools.

    Args:
        to_offer: a pool whose queue's head may go now is added to it.
        ignore: told of an event about a worker that is not known (any more).
    """

    def __init__(
        self,
        pools: Mapping[str, PoolState],
        decisions: Decisions,
        to_offer: list[PoolState],
        ignore: Callable[[Event], None],
    ) -> None:
        self._pools = pools
        self._decisions = decisions
        self._to_offer = to_offer
        self._ignore = ignore
        self._pool_of: dict[str, PoolState] = {}
        self.handlers: Mapping[type, Handling] = {
            MetricsScraped: (None, self._scraped),
            WorkerJoined: (self._check_pool, self._joined),
            WorkerDraining: (None, self._draining),
            WorkerLeft: (None, self._left),
            WorkerHealthChanged: (None, self._health_changed),
        }

    def _check_pool(self, event: WorkerJoined) -> None:
        check_known(self._pools, event.pool)

    def _joined(self, event: WorkerJoined, now: float) -> None:
        """A worker that is there already keeps its account: it only says anew what it serves and how large it is."""
        pool, worker_id = self._pools[event.pool], event.worker_id
        before = self._pool_of.get(worker_id)
        if before is pool:
            pool.workers[worker_id].joined_again(event)
        else:
            if before is not None:
                self._remove(worker_id)
            self._pool_of[worker_id] = pool
            pool.workers[worker_id] = state = WorkerState(event)
            pool.show(state)
            pool.prefix_index.join(worker_id)
        if event.replica:
            pool.scaling.joined(event.variant)
        self._changed(pool)

    def _draining(self, event: WorkerDraining, now: float) -> None:
        if found := self._find(event.worker_id, event):
            pool, state = found
            state.draining = True
            self._changed(pool)

    def _left(self, event: WorkerLeft, now: float) -> None:
        if self._find(event.worker_id, event):
            self._remove(event.worker_id)

    def _health_changed(self, event: WorkerHealthChanged, now: float) -> None:
        found = self._find(event.worker_id, event)
        if found and found[1].healthy != event.healthy:
            pool, state = found
            state.healthy = event.healthy
            self._changed(pool)

    def _scraped(self, event: MetricsScraped, now: float) -> None:
        if found := self._find(event.worker_id, event):
            pool, state = found
            self._decisions.read_output(pool, state)
            if anew := state.began_anew(event.values):
                pool.prefix_index.empty(state.worker_id)
            sizes = state.sizes
            state.scraped(event.values, event.taken_at)
            if pool.holding is not None and (anew or pool.needs.scraped or state.sizes != sizes):
                pool.freed[state.worker_id] = state
            self._to_offer.append(pool)

    def _remove(self, worker_id: str) -> None:
        pool = self._pool_of.pop(worker_id)
        del pool.workers[worker_id]
        pool.prefix_index.forget(worker_id)
        self._changed(pool)

    def _changed(self, pool: PoolState) -> None:
        pool.workers_changed()
        self._to_offer.append(pool)

    def _find(self, worker_id: str, event: Event) -> tuple[PoolState, WorkerState] | None:
        pool = self._pool_of.get(worker_id)
        if pool is None:
            self._ignore(event)
            return None
        return pool, pool.workers[worker_id]
