from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.support.policy_calls import load, request, route, workers


@pytest.mark.parametrize(
    ("inflight", "usage", "cached", "chosen"),
    [
        pytest.param([0, 0, 0], [0, 0, 0], [0, 512, 0], "w1", id="longest hit"),
        pytest.param([2, 0, 0], [0, 0, 0], [512, 512, 0], "w1", id="equal hits: fewest in flight"),
        pytest.param([2, 1, 3], [0, 0, 0], [0, 0, 0], "w1", id="a miss goes to the least loaded"),
        pytest.param([3, 0, 0], [0, 0, 0], [512, 0, 0], "w0", id="free below four in flight"),
        pytest.param([40, 30, 30], [0, 0, 0], [512, 0, 0], "w0", id="within the bound of 42"),
        pytest.param([44, 30, 30], [0, 0, 0], [512, 0, 0], "w1", id="over the bound"),
        pytest.param([44, 30, 30], [0, 0, 0], [512, 0, 16], "w2", id="over the bound: the next best hit"),
        pytest.param([0, 0, 0], [0.95, 0, 0], [512, 0, 0], "w1", id="full KV cache"),
        pytest.param([9, 8, 9], [0.95, 0.99, 1], [512, 0, 0], "w0", id="all full: the hit counts again"),
        pytest.param([7], [1], [0], "w0", id="only one"),
    ],
)
def test_choice(inflight, usage, cached, chosen):
    some = workers(num_inflight_requests=inflight, kv_cache_usage=usage)
    assert route(load("prefix_affinity"), some, request(1000), cached) == chosen


def test_misses_take_turns_instead_of_all_going_to_one():
    policy, some = load("prefix_affinity"), workers(num_inflight_requests=[0] * 4)
    assert Counter(route(policy, some) for _ in range(40)) == dict.fromkeys(["w0", "w1", "w2", "w3"], 10)


def test_one_prefix_for_everybody_makes_no_hot_spot():
    """448 requests with one prefix, none ending: no worker exceeds the bound, and locality is not thrown away."""
    policy, some = load("prefix_affinity"), workers(num_inflight_requests=[0] * 4)
    warm: dict[str | None, int] = {}
    hits = 0
    for _ in range(448):
        cached = [warm.get(worker.worker_id, 0) for worker in some]
        chosen = route(policy, some, request(1000), cached)
        hits += chosen in warm
        warm[chosen] = 900
        some[int(str(chosen)[1:])].num_inflight_requests += 1
    loads = [worker.num_inflight_requests for worker in some]
    assert max(loads) <= 1.25 * 448 / 4 + 1
    assert min(loads) > 0
    assert hits >= 444


def test_the_bound_always_leaves_someone():
    rng = Random(5)
    policy = load("prefix_affinity:slack=0,free_requests=0")
    for _ in range(500):
        loads = [rng.choice([0, rng.randint(0, 50)]) for _ in range(rng.randint(1, 6))]
        cached = [rng.randint(0, 100) for _ in loads]
        chosen = route(policy, workers(num_inflight_requests=loads), request(100), cached)
        assert loads[int(str(chosen)[1:])] <= sum(loads) / len(loads)
