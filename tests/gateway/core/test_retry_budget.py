"""A share of the requests and a floor, in event time."""

from __future__ import annotations

from gateway.core.commands import Dispatch, Reject
from gateway.core.retry_budget import RetryBudget
from tests.support.core_policies import arrived, dispatcher, failed


def withdrawn(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.withdraw(now):
        count += 1
    return count


def test_the_floor_is_there_from_the_start_and_comes_back() -> None:
    budget = RetryBudget(0.2, 10)
    assert withdrawn(budget, 5.0) == 10
    assert withdrawn(budget, 5.5) == 0
    assert withdrawn(budget, 8.0) == 3
    assert withdrawn(budget, 18.0) == 10


def test_requests_bring_their_share() -> None:
    budget = RetryBudget(0.25, 1)
    assert withdrawn(budget, 0.0) == 1
    for _ in range(12):
        budget.request_arrived()
    assert withdrawn(budget, 0.0) == 3


def test_no_more_is_saved_up_than_ten_floors() -> None:
    budget = RetryBudget(1.0, 2)
    for _ in range(1_000):
        budget.request_arrived()
    assert withdrawn(budget, 0.0) == 20


def test_without_share_and_floor_nothing_is_tried_again() -> None:
    assert withdrawn(RetryBudget(0.0, 0), 9.0) == 0


def test_a_failing_fleet_is_asked_little_more_than_it_is_sent() -> None:
    d = dispatcher("a", "b", retry_share=0.25, retry_floor=5)
    dispatches = rejected = 0
    for n in range(200):
        todo = d.handle(arrived(1.0, f"r{n}"))
        while todo and isinstance(todo[0], Dispatch):
            dispatches += 1
            todo = d.handle(failed(1.0, f"r{n}"))
        rejected += sum(isinstance(command, Reject) for command in todo)
    assert rejected == 200
    assert dispatches == 200 + 5 + 50
    assert d.num_requests == 0
