"""Workers that are left alone for a while: they said that they are full, or failed several times in a row."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from gateway.core.worker_state import Rest, WorkerState

if TYPE_CHECKING:
    from gateway.core.pool import PoolState


class Rests:
    """Of the workers of one pool."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool

    def failed(self, state: WorkerState, now: float) -> None:
        """Several failures in a row, and it rests, longer each time: a worker that fails fast looks idle."""
        state.num_failures_in_row += 1
        excess = state.num_failures_in_row - self._pool.config.rest_after_failures
        if excess >= 0 and self._may_rest(state):
            state.on_trial = False
            self._rest(state, "failures", now + min(self._pool.config.max_rest_seconds, float(2 ** min(excess, 30))))

    def full(self, state: WorkerState, now: float) -> None:
        """It turned a request away for being full: from here on it is given one for each sign of room, or a rest."""
        state.room = 0
        self._rest(state, "back_pressure", now + self._pool.config.back_pressure_seconds)

    def took(self, state: WorkerState, now: float) -> None:
        """It was given a request."""
        if state.on_trial:
            self._rest(state, "failures", now + self._pool.config.max_rest_seconds)
        if state.room:
            state.room -= 1
            if not state.room:
                self._rest(state, "back_pressure", now + self._pool.config.back_pressure_seconds)

    def has_room(self, state: WorkerState) -> None:
        """It is done with a request, or began to answer one. While nothing is held, its room need not be known."""
        if state.room is not None:
            state.room = state.room + 1 if self._pool.queue.num_requests else None
            if state.resting == "back_pressure":
                state.resting = None
                self._pool.workers_changed()

    def began(self, state: WorkerState) -> None:
        """It sent a first token: a trial is passed, though not yet forgotten."""
        if state.on_trial:
            state.on_trial = False
            state.resting = None
            self._pool.workers_changed()

    def answered(self, state: WorkerState) -> None:
        state.num_failures_in_row = 0
        state.on_trial = False
        if state.resting is not None:
            state.resting = None
            self._pool.workers_changed()
        if state.room is not None:
            self.has_room(state)

    def end(self, now: float) -> bool:
        """True when a worker's rest is over by now."""
        if self._pool.rest_until is None or now < self._pool.rest_until:
            return False
        for state in self._pool.workers.values():
            if state.resting is not None and state.rest_until <= now:
                state.on_trial = state.on_trial or state.resting == "failures"
                state.resting = None
                state.room = 1 if state.room == 0 else state.room
        self._pool.workers_changed()
        return True

    def _may_rest(self, state: WorkerState) -> bool:
        """Whether it may be left alone for its failures, beside those that are."""
        there = [s for s in self._pool.workers.values() if s.healthy and not s.draining]
        resting = sum(s is not state and (s.on_trial or s.resting == "failures") for s in there)
        return resting < ceil(self._pool.config.max_resting_share * len(there))

    def _rest(self, state: WorkerState, why: Rest, until: float) -> None:
        if self._pool.workers.get(state.worker_id) is state:
            state.resting, state.rest_until = why, until
            self._pool.workers_changed()
