"""The caps, checked before anything is spent: what a request could cost at most is set aside until it is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from designer.proposers.llm.message_log import Spent
from designer.proposers.llm.settings import Caps

CAP = "cap of"
"""How the reason begins that a cap gives."""


class CapReachedError(Exception):
    """A cap leaves no room for what was about to be spent; one line."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most a request can use."""

    tokens: int
    dollars: float


class Meter:
    """Counts what is spent and what is set aside. One event loop uses it."""

    def __init__(self, caps: Caps, spent: Spent, clock: Callable[[], float] = time.monotonic) -> None:
        self._caps = caps
        self.requests = spent.requests
        self.tokens = spent.tokens
        self.dollars = spent.dollars
        self._clock = clock
        self._began = clock() - spent.seconds
        self._aside: list[Reservation] = []
        self._changed = asyncio.Condition()

    @property
    def seconds(self) -> float:
        """Since the proposer began; after a resume, what its earlier replies took is counted too."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float:
        """Until the cap on time."""
        return max(0.0, self._caps.seconds - self.seconds)

    async def reserve(self, wanted: Reservation) -> None:
        """Set it aside; waits while requests in flight may yet leave room for it.

        Raises:
            CapReachedError: there is no room even when nothing else is in flight.
        """
        async with self._changed:
            while problem := self._over(wanted, self._aside):
                if self._over(wanted, []):
                    raise CapReachedError(problem)
                await self._changed.wait()
            self._aside.append(wanted)
            self.requests += 1

    async def settle(self, reserved: Reservation, tokens: int, dollars: float) -> None:
        """What it really was; may be more than was set aside, if the server kept to no limit."""
        async with self._changed:
            self._aside.remove(reserved)
            self.tokens += tokens
            self.dollars += dollars
            self._changed.notify_all()

    def _over(self, wanted: Reservation, aside: list[Reservation]) -> str:
        """The first cap that would be passed; empty when none is."""
        tokens = self.tokens + sum(other.tokens for other in aside) + wanted.tokens
        dollars = self.dollars + sum(other.dollars for other in aside) + wanted.dollars
        caps = self._caps
        if self.seconds >= caps.seconds:
            return f"{CAP} {caps.seconds:g} s reached"
        if self.requests >= caps.requests:
            return f"{CAP} {caps.requests} requests reached"
        if tokens > caps.tokens:
            return f"{CAP} {caps.tokens} tokens: {self.tokens} used, the next request could use {wanted.tokens}"
        if dollars > caps.dollars:
            return (
                f"{CAP} ${caps.dollars:g}: ${self.dollars:.4f} used, the next request could cost ${wanted.dollars:.4f}"
            )
        return ""
