from __future__ import annotations

import pytest

from policies.contract import Pool, Variant
from policies.loader import PolicyLoadError
from tests.support.policy_calls import load


def pool(now: float = 0.0, inflight: int = 0, queued: int = 0, **variants: Variant) -> Pool:
    return Pool("p", now=now, num_inflight_requests=inflight, num_queued_requests=queued, variants=variants)


def variant(ready: int, starting: int = 0, least: int = 0, most: int = 100) -> Variant:
    return Variant("v", num_ready=ready, num_starting=starting, min_replicas=least, max_replicas=most)


@pytest.mark.parametrize(
    ("ready", "starting", "inflight", "queued", "wanted"),
    [
        pytest.param(2, 0, 30, 10, 4, id="ceil(40 / 10)"),
        pytest.param(2, 0, 41, 0, 5, id="rounded up"),
        pytest.param(4, 0, 41, 0, 4, id="within the tolerance of 0.1"),
        pytest.param(4, 0, 45, 0, 5, id="beyond it"),
        pytest.param(2, 2, 40, 0, 4, id="starting replicas count"),
        pytest.param(0, 0, 1, 0, 1, id="from nothing"),
        pytest.param(0, 5, 80, 0, 8, id="replicas that never start do not block more"),
        pytest.param(3, 0, 0, 0, 0, id="no traffic"),
        pytest.param(0, 0, 0, 0, 0, id="no traffic, no replica"),
    ],
)
def test_size(ready, starting, inflight, queued, wanted):
    policy = load("target_tracking:target=10")
    assert policy.desired_replicas(pool(0.0, inflight, queued, v=variant(ready, starting))) == {"v": wanted}


def test_down_only_after_the_window_and_up_at_once():
    policy = load("target_tracking:target=1,tolerance=0,stabilization_seconds=300")
    loads = [(0, 8), (100, 2), (200, 5), (290, 1), (310, 1), (501, 1), (502, 9)]
    sizes = [policy.desired_replicas(pool(now, load, v=variant(8)))["v"] for now, load in loads]
    assert sizes == [8, 8, 8, 8, 5, 1, 9]


def test_two_one_two_does_not_flap():
    policy = load("target_tracking:target=10")
    sizes = {policy.desired_replicas(pool(15.0 * n, 20 if n % 2 else 9, v=variant(2)))["v"] for n in range(1, 40)}
    assert sizes == {2}


def test_variants_are_filled_in_order_within_their_bounds():
    policy = load("target_tracking:target=1")
    both = {"cheap": variant(1, least=1, most=4), "dear": variant(0, least=0, most=8)}
    assert policy.desired_replicas(pool(0.0, 3, **both)) == {"cheap": 3, "dear": 0}
    assert policy.desired_replicas(pool(1.0, 9, **both)) == {"cheap": 4, "dear": 5}
    assert policy.desired_replicas(pool(2.0, 99, **both)) == {"cheap": 4, "dear": 8}


def test_no_variants_at_all():
    assert load("target_tracking").desired_replicas(pool(0.0, 10)) == {}


@pytest.mark.parametrize("params", ["target=0", "tolerance=-1", "stabilization_seconds=-1"])
def test_parameters(params):
    with pytest.raises(PolicyLoadError, match="target must be above 0"):
        load(f"target_tracking:{params}")
