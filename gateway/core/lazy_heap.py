"""A heap of held requests from which one can be taken out of the middle: marked at once, dropped when it surfaces.

Push, pop and removal are O(log n) amortised; what is dead never outnumbers what lives by more than a constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any

from gateway.core.request_state import RequestState

_SLACK = 64


class LazyHeap:
    """Entries are ``(order, stamp, request)``; one is alive while ``request.stamp == stamp``.

    Stamps are unique, so that comparing two entries never reaches the requests.
    """

    __slots__ = ("_entries", "num_alive")

    def __init__(self) -> None:
        self._entries: list[tuple[Any, int, RequestState]] = []
        self.num_alive = 0

    def push(self, order: Any, request: RequestState) -> None:
        heappush(self._entries, (order, request.stamp, request))
        self.num_alive += 1

    def discarded(self) -> None:
        """One of the requests in the heap was given another stamp."""
        self.num_alive -= 1
        if len(self._entries) > 2 * self.num_alive + _SLACK:
            self._entries = [entry for entry in self._entries if entry[2].stamp == entry[1]]
            heapify(self._entries)

    def top(self) -> RequestState | None:
        """The living request that comes first."""
        entries = self._entries
        while entries:
            _, stamp, request = entries[0]
            if request.stamp == stamp:
                return request
            heappop(entries)
        return None

    def __iter__(self) -> Iterator[RequestState]:
        """The living requests, in no useful order."""
        return (request for _, stamp, request in self._entries if request.stamp == stamp)
