"""Runs an engine in real time: one timer, an absolute schedule, every step's tokens handed out when it ends.

Engine time is real time since the start, times ``speed``. A late wake-up hands out several steps at once and
changes nothing after it, because the next wake-up is computed from the schedule and not from the delay.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineRequest, RequestStats, TokenRun

_PS_PER_NS = 1000


class Flight(Protocol):
    """A request in the engine, as the one who waits for its tokens sees it."""

    request: EngineRequest

    def tokens(self, count: int) -> None:
        """``count`` more tokens have been made, none of them the last."""
        ...

    def finish(self, count: int, stats: RequestStats) -> None:
        """``count`` more tokens have been made and the request is over."""
        ...


class RunObserver(Protocol):
    """Told of every run of tokens, before the flights are."""

    def observe(self, run: TokenRun, engine: Engine) -> None: ...


class Driver:
    """The clock and the only caller of one engine. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        observer: RunObserver,
        speed: float = 1.0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.engine = engine
        self._observer = observer
        self._speed = speed
        self._clock_ns = clock_ns
        self._start_ns = clock_ns()
        self._start_unix = time.time()
        self._flights: dict[str, Flight] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self.reported_num_queued = 0
        """``num_queued`` as of the last step's end: what the API server of a vLLM knows of its engine."""

    def now(self) -> int:
        """Engine time, picoseconds."""
        return int((self._clock_ns() - self._start_ns) * self._speed) * _PS_PER_NS

    def seconds(self, duration: int) -> float:
        """Real seconds of an engine time or duration."""
        return duration / (PS_PER_SECOND * self._speed)

    def unix(self, at: int) -> float:
        """Unix time of an engine time."""
        return self._start_unix + self.seconds(at)

    @property
    def num_flights(self) -> int:
        return len(self._flights)

    @property
    def num_queued(self) -> int:
        """Requests that run in no step yet, those on their way to the scheduler included."""
        return max(0, len(self._flights) - self.engine.num_running)

    def submit(self, flight: Flight) -> None:
        """ValueError when the request can never fit, or one of its id is in flight."""
        now = self._advance()
        self.engine.add(flight.request, now)
        self._flights[flight.request.request_id] = flight
        self._arm(now)

    def cancel(self, request_id: str) -> RequestStats | None:
        """Takes a request out at once; its life so far, None when it is not in flight."""
        if self._flights.pop(request_id, None) is None:
            return None
        now = self._advance()
        stats = self.engine.stats(request_id)
        self.engine.cancel(request_id, now)
        self._arm(now)
        return stats

    def close(self) -> None:
        """No flight hears anything any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flights.clear()

    def refresh(self) -> None:
        """Brings the engine to the present, for who reads its gauges."""
        self._arm(self._advance())

    def _wake(self) -> None:
        self._timer = None
        self._arm(self._advance())

    def _advance(self) -> int:
        now = self.now()
        runs = self.engine.advance(now)
        for run in runs:
            self._observer.observe(run, self.engine)
            self._hand_out(run)
        if runs:
            self.reported_num_queued = self.num_queued
        return now

    def _hand_out(self, run: TokenRun) -> None:
        flights, count = self._flights, run.num_steps
        for request_id, stats in zip(run.finished, run.stats, strict=True):
            flight = flights.pop(request_id, None)
            if flight is not None:
                flight.finish(count, stats)
        for request_id in run.request_ids:
            flight = flights.get(request_id)
            if flight is not None:
                flight.tokens(count)

    def _arm(self, now: int) -> None:
        """One timer, for the end of the engine's step. Event loops count in milliseconds and some round down: a wake-up
        before the step's end would be for nothing, so round up."""
        at = self.engine.next_step_time()
        if at is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self.reported_num_queued = 0
            return
        if self._timer is not None:
            if self._timer_at == at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay = max(0, math.ceil(self.seconds(at - now) * 1000)) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)
