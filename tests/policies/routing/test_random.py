from __future__ import annotations

from collections import Counter

from tests.support.policy_calls import load, route, workers


def drawn(seed: int, count: int = 3000) -> list[str | None]:
    policy, some = load("routing/random", seed), workers(num_inflight_requests=[90, 0, 5])
    return [route(policy, some) for _ in range(count)]


def test_uniform_whatever_they_hold():
    assert all(900 < count < 1100 for count in Counter(drawn(1)).values())


def test_the_seed_decides():
    assert drawn(1, 50) == drawn(1, 50) != drawn(2, 50)
