"""Whatever happens in whatever order, under whatever policies: every request ends once, and the books come out."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.commands import PolicySetRetired
from tests.support.core_world import World

STEPS = st.lists(st.tuples(st.integers(0, 18), st.integers(0, 10_000)), max_size=150)


@settings(max_examples=100, deadline=None)
@given(generation=st.integers(0, 60), steps=STEPS)
def test_any_order_of_events_under_any_policies(generation, steps):
    world = World(generation)
    world.join(1)
    for kind, pick in steps:
        world.do(kind, pick)
    world.finish()
    assert len(world.ended) == world.num_arrived
    assert world.dispatcher.num_requests == 0
    pool = world.dispatcher.pools["p"]
    assert not pool.in_flight
    assert all(state.num_inflight_tokens == 0 for state in pool.workers.values() if not state.output_seen)
    world.check_replay()


@pytest.mark.parametrize("seed", range(3))
def test_a_long_run_in_which_nearly_everything_happens(seed):
    rng = random.Random(seed)
    world = World(seed * 7 + 3)
    world.join(1)
    for _ in range(2000):
        world.do(rng.randrange(19), rng.randrange(10_001))
    world.finish()
    world.check_replay()
    assert set(world.ended.values()) >= {"completed", "left", "deadline", "queue_timeout", "no_worker", "shed"}
    failures = world.dispatcher.pools["p"].guard.num_failures
    assert {reason for _, reason in failures} == {"exception", "wrong_answer", "overrun", "interrupted"}
    assert any(isinstance(command, PolicySetRetired) for _, commands in world.log for command in commands)
