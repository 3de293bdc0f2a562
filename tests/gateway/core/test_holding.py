"""A routing policy that says what stays held: asked less, and deciding the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from designer.simulator.policies import make_policy_set
from designer.simulator.world import simulate
from gateway.core.commands import Dispatch
from gateway.core.events import (
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    RequestEnded,
    Ticked,
    WorkerHealthChanged,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from tests.support.contended_scenario import contended_scenario
from tests.support.core_policies import arrived, completed, dispatcher, failed, joined, play, sized


class OneEach:
    """A request to each worker at a time; counts how often it is asked."""

    def __init__(self, answer: Any = None) -> None:
        self.num_routes = 0
        self.asked_of: list[str] = []
        self._answer = answer

    def route(self, request, candidates, pool):
        self.num_routes += 1
        return next((c for c in candidates if not c.worker.num_inflight_requests), None)

    def may_go(self, request, worker):
        self.asked_of.append(worker.worker_id)
        return not worker.num_inflight_requests if self._answer is None else self._answer


def holding(policy):
    """Two workers with a request each, and a third that is held."""
    d = dispatcher("a", "b", routing=policy)
    play(d, arrived(1, "r1"), arrived(1, "r2"), arrived(2, "r3"))
    policy.num_routes = 0
    return d


def test_time_and_first_tokens_without_room_do_not_ask_route_again():
    policy = OneEach()
    d = holding(policy)
    assert play(d, Ticked(3), FirstTokenSeen(4, "r1"), Ticked(5)) == [[], [], []]
    assert (policy.num_routes, policy.asked_of) == (0, ["a"])


def test_what_gave_something_back_is_looked_at_and_the_held_one_goes():
    policy = OneEach()
    d = holding(policy)
    assert d.handle(completed(4, "r2")) == [Dispatch("r3", "b")]
    assert (policy.num_routes, policy.asked_of) == (1, ["b"])


def test_other_workers_or_another_head_ask_route_at_once():
    policy = OneEach()
    d = holding(policy)
    assert d.handle(arrived(3, "first", priority=1)) == []
    assert policy.num_routes == 1, "a new head"
    assert d.handle(joined("c", time=4)) == [Dispatch("first", "c")]
    assert d.handle(WorkerHealthChanged(5, "a", False)) == []
    assert policy.num_routes == 4, "the one, then the next head, and that again among fewer workers"
    assert policy.asked_of == []


def test_a_scrape_counts_when_it_tells_something_that_is_read():
    for reads, num_asked in ((frozenset(), 1), (frozenset({"num_inflight_requests"}), 0)):
        policy = OneEach()
        d = dispatcher("a", routing=policy, reads=reads)
        play(d, arrived(1, "r1"), arrived(2, "r2"), MetricsScraped(3, "a", WorkerMetrics(num_requests_running=1), 3))
        assert len(policy.asked_of) == num_asked
        d.handle(MetricsScraped(4, "a", sized(1600), 4))
        assert len(policy.asked_of) == num_asked + 1, "a size that was not known"


def test_a_prefill_that_ends_by_the_clock_counts():
    policy = OneEach()
    d = dispatcher("a", "b", routing=policy)
    play(d, arrived(1, "r1"), FirstTokenSeen(2, "r1"), completed(3, "r1"))  # the usual time is a second
    play(d, arrived(4, "r2", stream=False), arrived(4, "r3"), arrived(4, "r4"))
    play(d, Ticked(4.5))
    assert policy.asked_of == []
    play(d, Ticked(5.5))
    assert len(policy.asked_of) == 1


@pytest.mark.parametrize("answer", [1, "yes", 0.0])
def test_no_bool_is_a_failure_and_asks_route(answer):
    policy = OneEach(answer)
    d = holding(policy)
    d.handle(FirstTokenSeen(4, "r1"))
    assert policy.num_routes == 1
    assert d.pools["p"].guard.num_failures == {("routing", "wrong_answer"): 1}


def test_one_that_keeps_failing_is_retired_and_the_held_one_goes():
    d = dispatcher("a", "b", routing=OneEach("no bool"), guard_failures=1)
    play(d, arrived(1, "r1"), arrived(1, "r2"), arrived(2, "r3"))
    retired, sent = d.handle(FirstTokenSeen(4, "r1"))
    assert (retired.restored, sent.request_id) == (0, "r3")


def test_a_new_set_is_asked_about_what_the_old_one_held():
    old, new = OneEach(), OneEach()
    d = holding(old)
    d.handle(PolicySetReplaced(3, "p", PolicySet(2, new)))
    assert new.num_routes == 1
    assert d.handle(completed(4, "r1")) == [Dispatch("r3", "a")]


class OnePrefillEach:
    """A prefill to each worker at a time; those of the session ``a`` go to worker a whatever it does."""

    def route(self, request, candidates, pool):
        return next((c for c in candidates if self.may_go(request, c.worker)), None)

    def may_go(self, request, worker):
        return request.session_id == worker.worker_id or not worker.num_inflight_prefill_tokens


def test_one_that_comes_back_is_not_judged_by_what_was_given_back_while_it_was_away():
    d = dispatcher("a", "b", routing=OnePrefillEach())
    play(d, arrived(1, "r1"), FirstTokenSeen(2, "r1"), completed(3, "r1"))  # the usual time is a second
    play(d, arrived(4, "r2", stream=False), arrived(4, "r3", stream=False), arrived(4, "held"))
    assert play(d, Ticked(5.5), arrived(6, "r4", session_id="a")) == [[Dispatch("held", "a")], [Dispatch("r4", "a")]]
    assert d.handle(failed(7, "held")) == [Dispatch("held", "b")]


@pytest.mark.parametrize("seed", range(20))
def test_with_and_without_decide_the_same_when_attempts_fail(seed):
    """One is held at a time, and time jumps, so that several prefills end at once by the clock. What was held and goes
    is followed by one of a session to the same worker, and fails: it comes back to a worker that has no room, while
    another got some before."""
    one, other = (dispatcher("a", "b", "c", routing=p, retry_floor=10**6) for p in _with_and_without())
    rng, sent, to_come = random.Random(seed), dict[str, bool](), list[Any]()
    now, num_failed, num_came_back = 0.0, 0, 0
    for number in range(400):
        now += rng.choice((0.0, 0.0, 0.25, 2.0))
        one_is_held = len(one.pools["p"].queue) > 0
        event = to_come.pop(0)(now) if to_come else _drawn(rng, now, number, sent, one_is_held)
        if isinstance(event, RequestEnded):
            num_failed += event.outcome == "failed"
            del sent[event.request_id]
        commands = one.handle(event)
        assert commands == other.handle(event), number
        went = {c.request_id: c.worker_id for c in commands if isinstance(c, Dispatch)}
        sent.update(dict.fromkeys(went, False))
        for request_id, worker_id in went.items():
            if request_id != getattr(event, "request_id", "") and not to_come and rng.random() < 0.7:
                num_came_back += 1
                session = f"s{number}"
                to_come = [
                    lambda t, s=session, w=worker_id: arrived(t, s, session_id=w, stream=False),
                    lambda t, r=request_id: failed(t, r),
                ]
    assert num_failed > 20 and num_came_back > 10


def _drawn(rng: random.Random, now: float, number: int, sent: dict[str, bool], one_is_held: bool) -> Any:
    what = rng.choice(("arrive", "arrive", "arrive", "token", "fail", "complete", "tick", "tick"))
    if what == "arrive" and not one_is_held:
        session = rng.choice(("a", "b", None, None, None, None))
        return arrived(now, f"r{number}", session_id=session, stream=rng.random() < 0.1)
    if what in ("arrive", "tick") or not sent:
        return Ticked(now)
    request_id = rng.choice(list(sent))
    if what == "complete":
        return completed(now, request_id)
    if sent[request_id]:  # it has begun to answer: it cannot be tried again
        return Ticked(now)
    if what == "fail":
        return failed(now, request_id)
    sent[request_id] = True
    return FirstTokenSeen(now, request_id)


def _with_and_without():
    return OnePrefillEach(), Asked(OnePrefillEach())


class Asked:
    """Another policy without its ``may_go``."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.num_routes = 0

    def route(self, request, candidates, pool):
        self.num_routes += 1
        return self._policy.route(request, candidates, pool)


@pytest.mark.parametrize("policy", ["head_room", "head_room:oversize=false,ageing=0", "expert"])
def test_the_built_in_ones_decide_the_same_with_and_without(policy):
    scenario = contended_scenario(workload={"num_requests": 300})
    kept: list[Asked] = []

    def without() -> PolicySet:
        made = make_policy_set(policy, 1)
        kept.append(Asked(made.routing))
        return PolicySet(0, kept[0], made.scheduling, reads=made.reads)

    logs: list[list[Any]] = [[], []]
    one = simulate(scenario, policy, 1, sink=lambda event, commands: logs[0].append((event, commands)))
    other = simulate(scenario, without, 1, sink=lambda event, commands: logs[1].append((event, commands)))
    assert logs[0] == logs[1]
    assert np.array_equal(one.dispatched, other.dispatched, equal_nan=True)
    assert kept[0].num_routes > 2 * len(one), "much was held: the promise was put to the test"
