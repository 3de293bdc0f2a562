"""Spec texts into policy sets, fresh for every run."""

from __future__ import annotations

import pytest

from designer.simulator.policies import make_policy_set
from gateway.core.policy_set import PolicySet
from policies.loader import PolicyLoadError, parse_specs


def test_a_text_and_its_parsed_specs_name_the_same_set() -> None:
    text = "head_room@routing:r=0.5+fcfs"
    one, other = make_policy_set(text, 1), make_policy_set(parse_specs(text), 1)
    assert one.identities == other.identities
    assert set(one.identities) == {"routing", "scheduling"}


def test_every_call_makes_new_policies() -> None:
    assert make_policy_set("head_room", 1).routing is not make_policy_set("head_room", 1).routing


def test_a_function_makes_the_set_itself() -> None:
    made = PolicySet.builtin()
    assert make_policy_set(lambda: made, 1) is made


def test_a_wrong_text() -> None:
    with pytest.raises(PolicyLoadError):
        make_policy_set("head_rom", 1)
