"""One coarse timer for every connection's timeouts: nothing is scheduled per request or per token.

Connections lie in a few buckets; each tick looks at one bucket, so that each connection is looked at once a period.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.runtime import Clock

NUM_BUCKETS = 8


class Swept(Protocol):
    def swept(self, now: float) -> None:
        """Called once a period; must not raise."""
        ...


class Sweeper:
    def __init__(self, clock: Clock, period_seconds: float) -> None:
        self._clock = clock
        self._interval = period_seconds / NUM_BUCKETS
        self._buckets: list[set[Swept]] = [set() for _ in range(NUM_BUCKETS)]
        self._fill = 0
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Swept) -> set[Swept]:
        """The bucket it is in from now on, from which it discards itself when it ends."""
        self._fill = (self._fill + 1) % NUM_BUCKETS
        bucket = self._buckets[self._fill]
        bucket.add(item)
        return bucket

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.start()
        now = self._clock.time()
        self._turn = (self._turn + 1) % NUM_BUCKETS
        for item in tuple(self._buckets[self._turn]):
            item.swept(now)
