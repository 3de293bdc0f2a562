"""How many requests may be tried again: a share of all requests and a floor, so that a failing fleet is not asked
three times as much as it fails to answer.

As Finagle's RetryBudget: requests deposit, retries withdraw, and a little comes in by time. Event time only.
"""

from __future__ import annotations

_SAVED_FLOORS = 10
"""So many floors may be saved up: a worker that dies may have hundreds of requests in flight."""
_FLOOR_SECONDS = 10.0


class RetryBudget:
    """``share``: retries for each request. ``floor``: retries in hand at the start, and again every ten seconds."""

    __slots__ = ("_most", "_per_second", "_refilled_at", "_share", "balance")

    def __init__(self, share: float, floor: int) -> None:
        self._refilled_at: float | None = None
        self.balance = float(floor)
        self.reconfigure(share, floor)

    def reconfigure(self, share: float, floor: int) -> None:
        """What is in hand stays in hand, up to what may be saved."""
        self._share, self._per_second = share, floor / _FLOOR_SECONDS
        self._most = float(floor * _SAVED_FLOORS)
        self.balance = min(self.balance, max(self._most, float(floor)))

    def request_arrived(self) -> None:
        balance = self.balance + self._share
        self.balance = balance if balance < self._most else self._most

    def withdraw(self, now: float) -> bool:
        """Whether one more may be tried again; if so, it is counted."""
        if self._refilled_at is not None:
            self.balance = min(self._most, self.balance + (now - self._refilled_at) * self._per_second)
        self._refilled_at = now
        if self.balance < 1.0:
            return False
        self.balance -= 1.0
        return True
