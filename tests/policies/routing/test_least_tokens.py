from __future__ import annotations

import pytest

from tests.support.policy_calls import load, route, workers


@pytest.mark.parametrize(("counts", "chosen"), [([0], "w0"), ([3, 1, 2], "w1"), ([5, 5, 4], "w2"), ([0, 1, 1], "w0")])
def test_the_smallest_count_wins(counts, chosen):
    some = workers(num_inflight_tokens=counts, num_inflight_requests=[len(counts) - n for n in range(len(counts))])
    assert route(load("least_tokens"), some) == chosen


def test_ties_take_turns():
    policy, some = load("least_tokens"), workers(num_inflight_tokens=[7, 7, 9, 7])
    assert {route(policy, some) for _ in range(8)} == {"w0", "w1", "w3"}
