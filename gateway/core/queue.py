"""The requests a pool holds, in the order they will be offered to the routing policy.

Priority band, then the tenant with least service (``fair_share``), then the policy's key, ties by arrival; with
one tenant it is exactly the key. Push, pop and removal are O(log n) amortised.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from gateway.core.fair_share import FairShare, TenantHeap
from gateway.core.lazy_heap import LazyHeap
from gateway.core.request_state import RequestState


class _Band:
    """The held requests of one priority."""

    __slots__ = ("by_tenant", "tenants")

    def __init__(self) -> None:
        self.tenants = TenantHeap()
        self.by_tenant: dict[str, LazyHeap] = {}


class HeldQueue:
    """Everything that is held, those with no worker in sight (``strand``) included."""

    def __init__(self, fair_share: FairShare) -> None:
        self._fair_share = fair_share
        self._bands: dict[int, _Band] = {}
        self._priorities: list[int] = []
        """A heap of negated priorities, each once; one whose band is gone is dropped when it surfaces."""
        self._listed: set[int] = set()
        self._by_arrival = LazyHeap()
        self._by_limit = LazyHeap()
        self._stranded: dict[str, RequestState] = {}
        self._num_stamps = 0
        self.num_requests = 0
        self.num_prompt_tokens = 0

    def __len__(self) -> int:
        return self.num_requests

    @property
    def num_ready(self) -> int:
        """Held requests for which a worker is in sight."""
        return self.num_requests - len(self._stranded)

    def push(self, request: RequestState) -> None:
        """Hold it, by ``request.key``."""
        self._mark(request)
        self.num_requests += 1
        self.num_prompt_tokens += request.prompt_tokens
        self._fair_share.hold(request.tenant)
        self._insert(request)

    def head(self) -> RequestState | None:
        """The next to be offered, the stranded left out; None when there is none."""
        priorities = self._priorities
        while priorities:
            band = self._bands.get(-priorities[0])
            if band is None:
                self._listed.discard(-heapq.heappop(priorities))
                continue
            tenant = band.tenants.top()
            return None if tenant is None else band.by_tenant[tenant.name].top()
        return None

    def remove(self, request: RequestState) -> None:
        """Take a held request out, wherever it stands."""
        request.stamp = 0
        self._unlist()
        self.num_requests -= 1
        self.num_prompt_tokens -= request.prompt_tokens
        if self._stranded.pop(request.request_id, None) is None:
            self._take_out(request)
        self._fair_share.release(request.tenant)

    def strand(self, request: RequestState) -> None:
        """Set a held request aside until ``restore``: no worker serves it, and others must not wait behind it."""
        self._mark(request)
        self._take_out(request)
        self._stranded[request.request_id] = request

    def restore(self) -> None:
        """Workers changed: put back what was set aside."""
        stranded, self._stranded = self._stranded, {}
        for request in stranded.values():
            self._insert(request)

    def rekey(self, key: Callable[[RequestState], tuple[Any, ...]]) -> None:
        """Order everything held anew, asking in the order of arrival."""
        held = list(self)
        for request in held:
            request.key, request.keyed = key(request), True
        for band in self._bands.values():
            band.tenants.clear()
        self._bands.clear()
        for request in held:
            if request.request_id not in self._stranded:
                self._insert(request)

    def next_limit(self) -> RequestState | None:
        """The held request whose ``limit`` comes first."""
        return self._by_limit.top()

    def oldest_arrival(self) -> float | None:
        oldest = self._by_arrival.top()
        return None if oldest is None else oldest.arrival_time

    def __iter__(self) -> Iterator[RequestState]:
        """All held, by arrival."""
        return iter(sorted(self._by_arrival, key=lambda request: request.seq))

    def _mark(self, request: RequestState) -> None:
        """Give it a new stamp: every entry it had is dead."""
        if request.stamp:
            request.stamp = 0
            self._unlist()
        self._num_stamps += 1
        request.stamp = self._num_stamps
        self._by_arrival.push(request.seq, request)
        self._by_limit.push(request.limit, request)

    def _unlist(self) -> None:
        self._by_arrival.discarded()
        self._by_limit.discarded()

    def _insert(self, request: RequestState) -> None:
        band = self._bands.get(request.priority)
        if band is None:
            band = self._bands[request.priority] = _Band()
            if request.priority not in self._listed:
                self._listed.add(request.priority)
                heapq.heappush(self._priorities, -request.priority)
        heap = band.by_tenant.get(request.tenant_name)
        if heap is None:
            heap = band.by_tenant[request.tenant_name] = LazyHeap()
            band.tenants.add(request.tenant)
        heap.push((request.key, request.seq), request)

    def _take_out(self, request: RequestState) -> None:
        band = self._bands[request.priority]
        heap = band.by_tenant[request.tenant_name]
        heap.discarded()
        if not heap.num_alive:
            del band.by_tenant[request.tenant_name]
            band.tenants.discard(request.tenant)
            if not band.by_tenant:
                del self._bands[request.priority]
