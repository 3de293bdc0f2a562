from __future__ import annotations

from tests.support.policy_calls import load, route, workers


def test_each_in_turn_whatever_it_holds():
    policy, some = load("round_robin"), workers(num_inflight_requests=[9, 0, 0])
    assert [route(policy, some) for _ in range(7)] == ["w0", "w1", "w2", "w0", "w1", "w2", "w0"]


def test_a_worker_that_leaves_or_comes_back_makes_no_other_be_skipped():
    policy, some = load("round_robin"), workers(num_inflight_requests=[0, 0, 0, 0])
    assert [route(policy, some), route(policy, some)] == ["w0", "w1"]
    assert route(policy, [some[0], some[2], some[3]]) == "w2"
    assert route(policy, some) == "w3"
    assert route(policy, some[1:]) == "w1"
    assert [route(policy, some[:2]) for _ in range(2)] == ["w0", "w1"]
