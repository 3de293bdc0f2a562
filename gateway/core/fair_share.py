"""Who is served next within a priority band: the tenant that has had least service.

The virtual token counter of Sheng et al., *Fairness in Serving Large Language Models* (OSDI 2024), algorithm 2
with length prediction: a tenant is charged the weighted tokens of a request when it is dispatched, by the
expected output, put right when the output is known. A tenant that comes back after a pause is lifted to the
least counter of those that wait, so that it cannot save up service it did not ask for.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

PROMPT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
"""The weights of the paper: an output token costs about twice a prompt token."""
_SLACK = 32
_TRIES = 8
"""To find one to forget; when all of them wait the number grows past its bound, itself bounded by the queue."""


class Tenant:
    __slots__ = ("counter", "heaps", "name", "num_held", "order")

    def __init__(self, name: str, order: int) -> None:
        self.name = name
        self.order = order
        self.counter = 0.0
        self.num_held = 0
        self.heaps: list[TenantHeap] = []
        """Those in which it stands; each is told when the counter changes."""

    def charge(self, tokens: float) -> None:
        """``tokens`` are weighted, and negative when an earlier charge is put right."""
        if tokens:
            self.counter += tokens
            for heap in self.heaps:
                heap.changed(self)


class TenantHeap:
    """Tenants by counter, ties by first arrival. Entries whose counter is out of date are dropped on the way."""

    __slots__ = ("_entries", "members")

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Tenant]] = []
        self.members: dict[int, Tenant] = {}

    def add(self, tenant: Tenant) -> None:
        self.members[tenant.order] = tenant
        tenant.heaps.append(self)
        self.changed(tenant)

    def discard(self, tenant: Tenant) -> None:
        del self.members[tenant.order]
        tenant.heaps.remove(self)

    def clear(self) -> None:
        for tenant in self.members.values():
            tenant.heaps.remove(self)
        self.members.clear()

    def changed(self, tenant: Tenant) -> None:
        heapq.heappush(self._entries, (tenant.counter, tenant.order, tenant))
        if len(self._entries) > 2 * len(self.members) + _SLACK:
            self._entries = [(member.counter, order, member) for order, member in self.members.items()]
            heapq.heapify(self._entries)

    def top(self) -> Tenant | None:
        entries = self._entries
        while entries:
            counter, order, tenant = entries[0]
            if counter == tenant.counter and order in self.members:
                return tenant
            heapq.heappop(entries)
        return None


class FairShare:
    """The counters of one pool. Remembers at most ``max_tenants`` besides those that wait, latest used first."""

    def __init__(self, max_tenants: int = 4096) -> None:
        self._max_tenants = max_tenants
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()
        self._waiting = TenantHeap()
        self._last_left: Tenant | None = None
        self._num_seen = 0

    def tenant(self, name: str) -> Tenant:
        """The one of this name, which has a request to be held or dispatched; lifted if it had none held."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._new(name)
        else:
            self._tenants.move_to_end(name)
        if not tenant.num_held:
            self._lift(tenant)
        return tenant

    def _lift(self, tenant: Tenant) -> None:
        if not tenant.num_held:
            least = self._waiting.top() if self._waiting.members else self._last_left
            if least is not None and least.counter > tenant.counter:
                tenant.counter = least.counter

    def hold(self, tenant: Tenant) -> None:
        if not tenant.num_held:
            self._lift(tenant)
            self._waiting.add(tenant)
        tenant.num_held += 1

    def release(self, tenant: Tenant) -> None:
        """One of its held requests is held no more."""
        tenant.num_held -= 1
        if not tenant.num_held:
            self._waiting.discard(tenant)
            self._last_left = tenant

    def counters(self) -> list[tuple[str, float]]:
        return [(tenant.name, tenant.counter) for tenant in self._tenants.values()]

    def _new(self, name: str) -> Tenant:
        if len(self._tenants) >= self._max_tenants:
            self._forget_one()
        self._num_seen += 1
        tenant = self._tenants[name] = Tenant(name, self._num_seen)
        return tenant

    def _forget_one(self) -> None:
        for _ in range(min(_TRIES, len(self._tenants))):
            name, tenant = self._tenants.popitem(last=False)
            if not tenant.num_held and tenant is not self._last_left:
                return
            self._tenants[name] = tenant


def weighted_tokens(num_prompt_tokens: int, num_output_tokens: float) -> float:
    return PROMPT_WEIGHT * num_prompt_tokens + OUTPUT_WEIGHT * num_output_tokens
