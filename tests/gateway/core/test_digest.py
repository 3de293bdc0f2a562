from __future__ import annotations

import pytest

from gateway.core.digest import state_digest
from gateway.core.events import (
    ClientLeft,
    FirstTokenSeen,
    MetricsScraped,
    PolicySetReplaced,
    Ticked,
    WorkerDraining,
    WorkerHealthChanged,
    WorkerMetrics,
)
from gateway.core.policy_set import PolicySet
from tests.support.core_policies import AtMost, arrived, completed, dispatcher, failed, joined, play


def start():
    made = dispatcher("a", "b", routing=AtMost(1), replicas={"default": (0, 9)})
    play(made, arrived(1, "r1"), arrived(2, "r2"), arrived(3, "r3"))
    return made


def test_the_same_events_give_the_same_digest():
    assert state_digest(start()) == state_digest(start())
    assert len(state_digest(start())) == 32


@pytest.mark.parametrize(
    "event",
    [
        arrived(4, "x"),
        FirstTokenSeen(4, "r1"),
        completed(4, "r1"),
        failed(4, "r1"),
        ClientLeft(4, "r3"),
        MetricsScraped(4, "a", WorkerMetrics(kv_cache_usage=0.5), 4),
        joined("c", time=4),
        WorkerDraining(4, "a"),
        WorkerHealthChanged(4, "a", False),
        PolicySetReplaced(4, "p", PolicySet(2)),
        Ticked(4),
    ],
    ids=lambda event: type(event).__name__,
)
def test_every_event_changes_it(event):
    one, other = start(), start()
    one.handle(event)
    other.handle(Ticked(4) if not isinstance(event, Ticked) else Ticked(5))
    assert state_digest(one) != state_digest(other)


def test_states_that_differ_in_what_was_learned_differ():
    one, other = start(), start()
    one.handle(completed(4, "r1", tokens=5))
    other.handle(completed(4, "r1", tokens=6))
    assert state_digest(one) != state_digest(other)
