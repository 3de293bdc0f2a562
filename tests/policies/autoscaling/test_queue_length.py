from __future__ import annotations

import pytest

from policies.contract import Pool, Variant, Worker
from policies.loader import PolicyLoadError
from tests.support.policy_calls import load


def pool(now: float = 0.0, waiting: int = 0, queued: int = 0, **variants: Variant) -> Pool:
    workers = [Worker("a", num_requests_waiting=waiting), Worker("b", num_requests_waiting=1 if waiting else 0)]
    return Pool("p", now, workers, variants, num_queued_requests=queued)


def variant(least: int = 0, most: int = 100) -> Variant:
    return Variant("v", num_ready=1, min_replicas=least, max_replicas=most)


@pytest.mark.parametrize(
    ("waiting", "queued", "wanted"), [(0, 0, 0), (9, 0, 2), (10, 0, 3), (4, 6, 3), (0, 1, 1)], ids=str
)
def test_waiting_in_engines_and_here_over_the_target(waiting, queued, wanted):
    assert load("queue_length:target=5").desired_replicas(pool(0, waiting, queued, v=variant())) == {"v": wanted}


def test_fewer_only_after_the_window():
    policy = load("queue_length:target=1,stabilization_seconds=60")
    policy.desired_replicas(pool(0, queued=7, v=variant()))
    assert policy.desired_replicas(pool(59, v=variant())) == {"v": 7}
    assert policy.desired_replicas(pool(61, v=variant(least=2))) == {"v": 2}


def test_the_first_variant_is_filled_first():
    policy = load("queue_length:target=1")
    assert policy.desired_replicas(pool(0, queued=9, v=variant(most=4), w=variant(least=1))) == {"v": 4, "w": 5}


@pytest.mark.parametrize("params", ["target=0", "stabilization_seconds=-1"])
def test_parameters_out_of_range(params):
    with pytest.raises(PolicyLoadError, match="target must be above 0"):
        load(f"queue_length:{params}")
