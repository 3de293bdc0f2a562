from __future__ import annotations

from policies.contract import Pool
from tests.support.policy_calls import load, request


def test_order_of_arrival_whatever_the_size():
    policy = load("fcfs")
    held = [request(10, arrival_time=3.0), request(9000, arrival_time=1.0), request(1, arrival_time=2.0)]
    assert [each.arrival_time for each in sorted(held, key=policy.key)] == [1.0, 2.0, 3.0]


def test_nothing_is_shed():
    assert load("fcfs").admit(request(), Pool("p", num_queued_requests=10**6)) is True
