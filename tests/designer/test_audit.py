"""Planted cheats are caught by the layer that is meant for them; what is better without cheating slips, and is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from designer.audit import NO_GAIN, SLIPPED, Audit
from designer.cheats import BASE, CHEATS, Cheat
from policies.conformance import check_source

ON_THIS_LAYER = [
    ("a field of the truth", "guard"),
    ("gc walk", "two processes"),
    ("duplicates", "invariants"),
    ("writes a file", "kernel fence"),
    ("starts a program", "kernel fence"),
    ("endless in C", "rlimits"),
    ("100 GB", "rlimits"),
    ("patches the score", "two processes"),
    ("forges its result", "result check"),
    ("changes the workers", "contract trial"),
    ("foreign object", "guard"),
    ("behaves when watched", "two processes"),
    ("behaves on known seeds only", NO_GAIN),
]


@pytest.fixture(scope="module")
def audit() -> Iterator[Audit]:
    with Audit(cpu_seconds=1.0) as made:
        yield made


def _named(audit: Audit, name: str) -> Cheat:
    return next(cheat for cheat in audit.cheats() if cheat.name == name)


@pytest.mark.parametrize(("name", "layer"), ON_THIS_LAYER, ids=[name for name, _ in ON_THIS_LAYER])
def test_a_cheat_is_caught_without_the_static_rules_too(audit: Audit, name: str, layer: str) -> None:
    if layer == "kernel fence" and "seccomp" not in audit.sandbox.layers():
        pytest.skip("this kernel or machine has no seccomp filter of ours")
    (finding,) = audit.run([_named(audit, name)])
    assert not finding.slipped
    assert finding.without_static.layer == layer, finding.without_static.detail
    assert finding.caught.layer in ("static rules", layer)


def test_what_is_better_for_what_it_does_slips(audit: Audit) -> None:
    """So that a clean audit means something: an honest improvement is told apart from a cheat by no layer."""
    better = Cheat(
        "shortest first", "nothing forbidden", BASE.replace("request.arrival_time", "request.num_prompt_tokens")
    )
    (finding,) = audit.run([better])
    assert finding.slipped
    assert finding.caught.layer == SLIPPED


def test_cheats_have_names_of_their_own_and_most_break_a_static_rule() -> None:
    assert len({cheat.name for cheat in CHEATS}) == len(CHEATS) > 40
    refused = [cheat for cheat in CHEATS if check_source(cheat.source)]
    assert len(refused) > 0.8 * len(CHEATS)
    assert check_source(BASE) == []
