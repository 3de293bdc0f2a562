from __future__ import annotations

from collections import Counter

from tests.support.policy_calls import load, route, workers


def test_one_worker():
    assert route(load("power_of_two"), workers(num_inflight_requests=[3])) == "w0"


def test_two_workers_are_both_drawn():
    policy, some = load("power_of_two"), workers(num_inflight_requests=[3, 2])
    assert {route(policy, some) for _ in range(50)} == {"w1"}


def test_the_shares_of_four():
    """The least loaded of four is among two drawn half the time, the fullest never wins."""
    policy, some = load("power_of_two"), workers(num_inflight_requests=[0, 1, 2, 3])
    shares = Counter(route(policy, some) for _ in range(6000))
    assert {worker: round(count / 1000) for worker, count in shares.items()} == {"w0": 3, "w1": 2, "w2": 1}
