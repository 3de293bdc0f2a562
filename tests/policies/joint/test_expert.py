from __future__ import annotations

from collections import Counter

import pytest

from policies.loader import PolicyLoadError
from tests.support.policy_calls import load, request, route, workers

CAPACITY = 2240 * 16


@pytest.mark.parametrize(
    ("tokens", "inflight", "chosen"),
    [
        pytest.param([0, 0], [2, 1], "w1", id="the shortest queue"),
        pytest.param([0, 2100 * 16], [2, 0], "w1", id="exactly 2,100 blocks committed is open"),
        pytest.param([0, 2100 * 16 + 1], [2, 0], "w0", id="one more token is not"),
        pytest.param([0, 2099 * 16], [2, 4], "w0", id="half a block for each request"),
        pytest.param([40_000, 40_000], [2, 0], None, id="all full: held"),
    ],
)
def test_choice(tokens, inflight, chosen):
    some = workers(kv_capacity_tokens=[CAPACITY] * 2, num_inflight_tokens=tokens, num_inflight_requests=inflight)
    assert route(load("expert"), some, request(9000)) == chosen


def test_half_a_block_for_each_request():
    def with_requests(count):
        return workers(kv_capacity_tokens=[CAPACITY], num_inflight_tokens=[2099 * 16], num_inflight_requests=[count])

    assert route(load("expert"), with_requests(2)) == "w0"
    assert route(load("expert"), with_requests(3)) is None


def test_ties_at_random_and_unknown_capacity_is_never_full():
    policy = load("expert")
    some = workers(kv_capacity_tokens=[0, 0, CAPACITY], num_inflight_tokens=[10**7, 10**7, 10**7])
    shares = Counter(route(policy, some) for _ in range(400))
    assert set(shares) == {"w0", "w1"}
    assert all(count > 150 for count in shares.values())


def test_shortest_prompt_first():
    key = load("expert").key
    assert key(request(5, arrival_time=9.0)) < key(request(6, arrival_time=1.0)) < key(request(6, arrival_time=2.0))


@pytest.mark.parametrize("params", ["limit=0", "ageing=-1"])
def test_parameters(params):
    with pytest.raises(PolicyLoadError, match="limit must be above 0 and ageing at least 0"):
        load(f"expert:{params}")
