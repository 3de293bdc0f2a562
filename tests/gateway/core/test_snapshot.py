"""A log with a hole is replayed on from the next checkpoint, by a dispatcher made of the state that is in it."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.digest import state_digest
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import PolicySetReplaced, RequestArrived, Ticked, WorkerJoined
from gateway.core.policy_memory import NotPlainError
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.core.request_state import RequestState
from gateway.core.snapshot import REQUEST_FIELDS, WORKER_FIELDS, RestoreError, restore, take, weight
from gateway.core.worker_state import WorkerState
from tests.support.core_world import World

STEPS = st.lists(st.tuples(st.integers(0, 18), st.integers(0, 10_000)), min_size=20, max_size=120)


@settings(max_examples=60, deadline=None)
@given(generation=st.integers(0, 60), steps=STEPS, first=st.integers(0, 150), num_lost=st.integers(1, 60))
def test_what_follows_a_gap_is_decided_the_same(generation, steps, first, num_lost):
    """Under policies with a generator of their own, swapped, retired and restored, with requests in every state."""
    world = World(generation, state_share=0)
    world.join(1)
    for kind, pick in steps:
        world.do(kind, pick)
    world.finish()
    first = min(first, len(world.records) - 1)
    gap = world.check_resumed(first, num_lost)
    later = [record[0] for record in world.records[first + num_lost :] if record[1] == "checkpoint"]
    if gap is not None:
        assert gap.resumed_after == (later[0] if later else None)


@pytest.mark.parametrize("seed", range(3))
def test_every_checkpoint_of_a_long_run_will_do(seed):
    rng = random.Random(seed)
    world = World(seed * 7 + 3, state_share=0)
    world.join(1)
    for _ in range(400):
        world.do(rng.randrange(19), rng.randrange(10_001))
    world.finish()
    last = world.records[-1][0]
    for first in range(1, len(world.records) - 40, 50):
        gap = world.check_resumed(first, 3)
        assert gap is not None and gap.resumed_after is not None and gap.resumed_after < min(gap.first + 17, last)


@pytest.mark.skipif(not hasattr(RequestState, "__slots__"), reason="compiled classes do not list their fields")
def test_nothing_that_a_request_or_worker_has_is_forgotten():
    """A field that is added is kept, or is made anew by what is named here."""
    made = {"request", "pool", "tenant", "worker", "key", "prefix_keys", "tried", "stamp"}
    assert set(RequestState.__slots__) == {*REQUEST_FIELDS, *made}
    made = {"worker", "candidate", "changes", "latency", "metrics", "unstreamed", "models"}
    assert set(WorkerState.__slots__) == {*WORKER_FIELDS, *made}


class Function:
    """Keeps what cannot be told."""

    def __init__(self):
        self._choose = lambda candidates: candidates[0]

    def route(self, request, candidates, pool):
        return self._choose(candidates)


def load(pool, generation, sources):
    return PolicySet(generation, Function())


def small(*events):
    dispatcher = Dispatcher([PoolConfig("p")])
    for event in (WorkerJoined(0.0, "a", "p"), *events):
        dispatcher.handle(event)
    return dispatcher


def test_a_policy_that_cannot_tell_what_it_remembers_leaves_the_gap():
    dispatcher = small(PolicySetReplaced(1.0, "p", load("p", 1, ())))
    with pytest.raises(NotPlainError, match="Function holds a function"):
        take(dispatcher)


def test_a_state_that_was_changed_is_refused():
    dispatcher = small(RequestArrived(1.0, "r", "m"), Ticked(2.0))
    digest = state_digest(dispatcher)
    state = json.loads(json.dumps(take(dispatcher)))
    counts: dict[str, int] = {}
    assert state_digest(restore(state, digest, load, counts, None)) == digest
    assert counts == {"a": 0}
    state["pools"][0]["retry_budget"][0] = 7.0
    with pytest.raises(RestoreError, match="the state made of it is another"):
        restore(state, digest, load, counts, None)
    del state["pools"][0]["held"]
    with pytest.raises(RestoreError, match="incomplete: KeyError\\('held'\\)"):
        restore(state, digest, load, counts, None)


def test_its_weight_grows_with_what_is_held_and_in_flight():
    light, heavy = small(), small(*(RequestArrived(1.0, f"r{n}", "m") for n in range(50)))
    assert weight(heavy) - weight(light) >= 300
