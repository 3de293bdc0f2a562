"""Planted cheats are caught by the layer that is meant for them; what is better without cheating slips, and is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from designer.audit import NO_GAIN, SLIPPED, Audit, Finding
from designer.audit_pins import layer_behind
from designer.cheats import BASE, CHEATS, Cheat
from designer.forgeries import FORGERIES
from designer.hostile import HOSTILE
from designer.layers import UNNAMED, Catch
from policies.conformance import check_source

ON_THIS_LAYER = [
    ("a field of the truth", "guard"),
    ("gc walk", "two processes"),
    ("duplicates", "invariants"),
    ("writes a file", "kernel fence"),
    ("starts a program", "kernel fence"),
    ("well-formed result", "two processes"),
    ("result by frames", "two processes"),
    ("result by ctypes", "two processes"),
    ("score under an honest digest", "two processes"),
    ("no invariants", "two processes"),
    ("another's identity", "promotion"),
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
    expected = layer_behind(name, compiled=True) if finding.compiled else layer
    assert finding.without_static.layer == expected, finding.without_static.detail
    assert finding.caught.layer in ("static rules", layer)
    assert not finding.moved


def test_what_is_better_for_what_it_does_slips(audit: Audit) -> None:
    """So that a clean audit means something: an honest improvement is told apart from a cheat by no layer."""
    better = Cheat(
        "shortest first", "nothing forbidden", BASE.replace("request.arrival_time", "request.num_prompt_tokens")
    )
    (finding,) = audit.run([better])
    assert finding.slipped
    assert finding.caught.layer == SLIPPED


def test_what_another_layer_caught_has_moved() -> None:
    caught, behind = Catch("static rules", "", 0.0), Catch("two processes", "", 0.0)
    assert not Finding("gc walk", "", caught, behind).moved
    assert Finding("gc walk", "", caught, Catch("guard", "", 0.0)).moved
    assert Finding("gc walk", "", behind, behind).moved
    assert Finding("a cheat that nobody wrote down", "", caught, behind).moved
    assert Finding("gc walk", "", caught, Catch(UNNAMED, "", 0.0)).slipped


def test_cheats_have_names_of_their_own_and_most_break_a_static_rule() -> None:
    cheats = [*CHEATS, *FORGERIES, *HOSTILE]
    assert len({cheat.name for cheat in cheats}) == len(cheats) > 90
    refused = [cheat for cheat in cheats if check_source(cheat.source)]
    assert len(refused) > 0.8 * len(cheats)
    assert all(check_source(cheat.source) for cheat in FORGERIES)
    assert check_source(BASE) == []
