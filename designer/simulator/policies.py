"""From the text a user writes to the policy set of one simulation, fresh every time: policies have state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.policy_set import PolicySet
from policies.loader import PolicySpec, load_policies, parse_specs

PolicySource = str | Sequence[PolicySpec] | Callable[[], PolicySet]
"""A spec text (``head_room@routing+fcfs``), parsed specs, or a function that makes a fresh set."""


def make_policy_set(source: PolicySource, seed: int, generation: int = 0) -> PolicySet:
    """A new set, its random policies seeded by ``seed``.

    Raises:
        PolicyLoadError: the text, a file or a parameter is wrong.
    """
    if callable(source):
        return source()
    specs = parse_specs(source) if isinstance(source, str) else source
    return PolicySet.of(load_policies(specs, seed, generation), generation)
