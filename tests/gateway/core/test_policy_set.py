from __future__ import annotations

from types import SimpleNamespace

import pytest

from gateway.core.policy_set import PolicySet
from policies.loader import load_policies, parse_specs


def test_the_set_of_loaded_policies():
    loaded = load_policies(parse_specs("joint/head_room@routing+fcfs+target_tracking"), seed=1, generation=3)
    made = PolicySet.of(loaded, 3)
    assert made.generation == 3
    assert [made.routing, made.scheduling, made.autoscaling] == [one.policy for one in loaded]
    assert made.identities["routing"].name == "joint/head_room"
    assert made.identities["routing"].policy_hash == loaded[0].policy_hash
    assert made.identities["scheduling"].name == "scheduling/fcfs"
    assert made.reads == frozenset().union(*(one.reads for one in loaded))
    assert [source.source for source in made.sources] == [one.source for one in loaded]
    assert [source.slots for source in made.sources] == [one.slots for one in loaded]


def test_one_that_fills_several_slots_observes_once():
    policy = object()
    one = SimpleNamespace(
        policy=policy,
        name="n",
        policy_hash="h",
        params={},
        slots=("routing", "scheduling", "observer"),
        reads=frozenset({"now"}),
        source="",
    )
    made = PolicySet.of([one], 1)
    assert (made.routing, made.scheduling, made.observers) == (policy, policy, (policy,))
    assert "observer" not in made.identities


def test_two_in_one_slot_are_refused():
    loaded = load_policies(parse_specs("least_loaded"), seed=1)
    with pytest.raises(ValueError, match="routing: filled by both routing/least_loaded and routing/least_loaded"):
        PolicySet.of([*loaded, *loaded], 1)


def test_of_none_it_is_the_built_in():
    made = PolicySet.of([], 4)
    assert (made.generation, made.routing, made.reads) == (4, None, frozenset())
    assert PolicySet.builtin().generation == 0
