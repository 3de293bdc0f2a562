from __future__ import annotations

import pytest

from tests.support.policy_calls import load, route, workers


@pytest.mark.parametrize(("inflight", "chosen"), [([0], "w0"), ([3, 1, 2], "w1"), ([5, 5, 4], "w2"), ([0, 1, 1], "w0")])
def test_fewest_in_flight(inflight, chosen):
    assert route(load("least_loaded"), workers(num_inflight_requests=inflight)) == chosen


def test_scraped_numbers_do_not_matter():
    some = workers(num_inflight_requests=[2, 1], num_requests_waiting=[0, 9], kv_cache_usage=[0.0, 1.0])
    assert route(load("least_loaded"), some) == "w1"


def test_ties_take_turns():
    policy, some = load("least_loaded"), workers(num_inflight_requests=[4, 4, 4])
    assert [route(policy, some) for _ in range(6)] == ["w0", "w1", "w2"] * 2


def test_a_worker_that_fails_fast_gets_no_more_than_its_share():
    """It looks idle every time; the others hold what they were given."""
    policy, some = load("least_loaded"), workers(num_inflight_requests=[0, 0, 0])
    taken = {"w0": 0, "w1": 0, "w2": 0}
    for _ in range(3):
        chosen = route(policy, some)
        taken[chosen] += 1
        if chosen != "w1":
            next(worker for worker in some if worker.worker_id == chosen).num_inflight_requests += 1
    assert taken == {"w0": 1, "w1": 1, "w2": 1}
