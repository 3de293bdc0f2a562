from __future__ import annotations

from policies.contract import Candidate, Pool, Request, Worker
from tests.support.policy_calls import load


def route(policy, *workers):
    candidates = [Candidate(Worker(f"w{n}", num_inflight_requests=i, tpot_ewma=t)) for n, (i, t) in enumerate(workers)]
    return policy.route(Request("r", "m"), candidates, Pool("p")).worker.worker_id


def test_a_worker_twice_as_fast_has_twice_as_much():
    policy = load("latency_weighted")
    assert route(policy, (4, 0.02), (8, 0.01)) == "w1"
    assert route(policy, (3, 0.02), (8, 0.01)) == "w0"


def test_who_has_shown_nothing_is_taken_for_the_fastest():
    policy = load("latency_weighted")
    assert route(policy, (0, 0.02), (1, 0.01), (0, 0.0)) == "w2"
    assert route(policy, (0, 0.02), (5, 0.0)) == "w0"


def test_equals_take_turns():
    policy = load("latency_weighted")
    assert {route(policy, (0, 0.0), (0, 0.0)) for _ in range(2)} == {"w0", "w1"}
