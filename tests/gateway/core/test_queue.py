"""The held queue beside a plain list sorted anew at every look."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.events import RequestArrived
from gateway.core.fair_share import FairShare
from gateway.core.queue import HeldQueue
from gateway.core.request_state import RequestState
from policies.contract import Request


class Held:
    """A queue, with requests made for it."""

    def __init__(self) -> None:
        self.fair_share = FairShare()
        self.queue = HeldQueue(self.fair_share)
        self.num = 0

    def make(self, key=(), *, tokens=1, tenant="t", priority=0, limit=100.0):
        self.num += 1
        name = f"r{self.num}"
        event = RequestArrived(float(self.num), name, "m", tenant, priority=priority)
        view = Request(name, "m", tenant, None, float(self.num), tokens)
        request = RequestState(view, event, None, self.fair_share.tenant(tenant), self.num)
        request.key, request.limit = key, limit
        return request

    def push(self, *arguments, **more):
        request = self.make(*arguments, **more)
        self.queue.push(request)
        return request

    def drain(self, charge=None):
        """Names in the order in which they are taken."""
        names = []
        while request := self.queue.head():
            self.queue.remove(request)
            if charge:
                request.tenant.charge(charge(request))
            names.append(request.request_id)
        return names


@pytest.fixture
def held():
    return Held()


def test_with_one_tenant_it_is_the_key_and_ties_by_arrival(held):
    for key in [(3,), (1,), (2,), (1,), (3,)]:
        held.push(key)
    assert held.drain() == ["r2", "r4", "r3", "r1", "r5"]


def test_a_higher_band_goes_first_whatever_the_key(held):
    held.push((0,), priority=-5)
    held.push((9,), priority=7)
    held.push((1,))
    assert held.drain() == ["r2", "r3", "r1"]


def test_tenants_take_turns_by_the_service_they_had(held):
    for _ in range(4):
        held.push(tenant="a", tokens=100)
    for _ in range(4):
        held.push(tenant="b", tokens=300)
    order = held.drain(lambda request: request.prompt_tokens)
    assert order == ["r1", "r5", "r2", "r3", "r4", "r6", "r7", "r8"]


def test_one_that_comes_back_has_saved_up_nothing(held):
    held.push(tenant="idle")
    held.drain(lambda request: 1)
    for _ in range(3):
        held.push(tenant="busy")
        held.drain(lambda request: 1000)
    for _ in range(3):
        held.push(tenant="busy")
    for _ in range(3):
        held.push(tenant="idle")
    assert held.drain(lambda request: 10) == ["r8", "r5", "r9", "r6", "r10", "r7"]


def test_a_charge_put_right_changes_the_order_at_once(held):
    a, b = held.push(tenant="a"), held.push(tenant="b")
    a.tenant.charge(50)
    assert held.queue.head() is b
    a.tenant.charge(-60)
    held.push(tenant="c")
    assert held.queue.head() is a


def test_removal_from_the_middle(held):
    requests = [held.push((n,)) for n in range(5)]
    held.queue.remove(requests[2])
    held.queue.remove(requests[0])
    assert (len(held.queue), held.drain()) == (3, ["r2", "r4", "r5"])


def test_the_same_request_may_be_held_again(held):
    first = held.push((1,))
    held.push((2,))
    held.queue.remove(first)
    held.queue.push(first)
    assert held.drain() == ["r1", "r2"]
    assert len(held.queue) == 0


def test_what_is_stranded_is_passed_over_until_it_is_restored(held):
    stuck = held.push((1,))
    held.push((2,))
    held.queue.strand(stuck)
    assert (held.queue.head().request_id, held.queue.num_ready, len(held.queue)) == ("r2", 1, 2)
    held.queue.restore()
    assert held.drain() == ["r1", "r2"]


def test_the_stranded_can_be_removed_and_count_towards_limits(held):
    stuck = held.push((1,), tokens=7, limit=3.0)
    held.queue.strand(stuck)
    assert held.queue.next_limit() is stuck
    assert held.queue.num_prompt_tokens == 7
    held.queue.remove(stuck)
    assert (len(held.queue), held.queue.next_limit(), held.queue.head()) == (0, None, None)


def test_a_new_key_orders_anew_the_stranded_too(held):
    requests = [held.push((n,)) for n in range(4)]
    held.queue.strand(requests[0])
    held.queue.rekey(lambda request: (-request.seq,))
    assert held.queue.head() is requests[3]
    held.queue.restore()
    assert held.drain() == ["r4", "r3", "r2", "r1"]


def test_the_next_limit_and_the_oldest(held):
    held.push(limit=9.0)
    second = held.push(limit=4.0)
    assert held.queue.next_limit() is second
    assert held.queue.oldest_arrival() == 1.0
    held.queue.remove(second)
    assert held.queue.next_limit().limit == 9.0


def test_what_was_removed_is_not_kept(held):
    """A request that never surfaces must not pin all that came and went behind it."""
    held.push((-1,), priority=9, limit=0.0)
    for _ in range(5000):
        held.queue.remove(held.push((0,), priority=held.num % 7))
    heaps = (held.queue._by_arrival, held.queue._by_limit)
    assert all(len(heap._entries) < 200 for heap in heaps)
    assert len(held.queue._priorities) <= 8


class Plain:
    """The order said in one line, with the service of each tenant beside it."""

    def __init__(self):
        self.requests = []
        self.counters = {}
        self.last = None

    def order(self, request):
        tenant = request.tenant.name
        first = next(iter(n for n, name in enumerate(self.counters) if name == tenant))
        return (-request.priority, self.counters[tenant], first, request.key, request.seq)

    def lift(self, tenant):
        waiting = {request.tenant.name for request in self.requests}
        if tenant not in waiting:
            least = min((self.counters[name] for name in waiting), default=self.counters.get(self.last, 0.0))
            self.counters[tenant] = max(self.counters[tenant], least)


OPERATION = st.tuples(
    st.sampled_from(["push", "push", "pop", "remove", "charge", "strand", "restore", "rekey"]),
    st.integers(0, 3),
    st.integers(-20, 60),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATION, max_size=120))
def test_as_a_plain_list_sorted_at_every_look(operations):
    held, plain, stranded = Held(), Plain(), []
    for name, pick, amount in operations:
        ready = [request for request in plain.requests if request not in stranded]
        if name == "push":
            tenant = "abcd"[pick]
            plain.counters.setdefault(tenant, 0.0)
            plain.lift(tenant)
            plain.requests.append(held.push((amount % 5,), tenant=tenant, priority=amount % 2))
        elif name in ("pop", "remove") and ready:
            ordered = sorted(ready, key=plain.order)
            request = ordered[0] if name == "pop" else ordered[pick % len(ordered)]
            held.queue.remove(request)
            plain.requests.remove(request)
            if request.tenant.name not in {r.tenant.name for r in plain.requests}:
                plain.last = request.tenant.name
        elif name == "charge" and plain.requests:
            request = plain.requests[pick % len(plain.requests)]
            request.tenant.charge(float(amount))
            plain.counters[request.tenant.name] += amount
        elif name == "strand" and ready:
            stranded.append(ready[pick % len(ready)])
            held.queue.strand(stranded[-1])
        elif name == "restore":
            held.queue.restore()
            stranded = []
        elif name == "rekey":
            held.queue.rekey(lambda request, salt=amount: ((request.seq * salt) % 7,))
        ready = [request for request in plain.requests if request not in stranded]
        assert held.queue.head() is min(ready, key=plain.order, default=None)
        assert (len(held.queue), held.queue.num_ready) == (len(plain.requests), len(ready))
        assert list(held.queue) == sorted(plain.requests, key=lambda request: request.seq)
