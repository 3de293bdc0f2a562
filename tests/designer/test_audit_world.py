"""Each question about the simulator is answered well here, and ill where a fault was planted."""

from __future__ import annotations

import pytest

from designer.audit import audit_scenario
from designer.audit_world import Check, check_world, split_told
from tests.support.small_scenario import small_scenario

CHECKS = list(check_world([audit_scenario()]))


@pytest.mark.parametrize("check", CHECKS, ids=[check.name for check in CHECKS])
def test_a_check_holds_and_finds_what_was_planted(check: Check) -> None:
    assert check.found == ""
    assert check.planted
    assert check.holds


def test_a_scenario_without_max_tokens_is_not_asked_about_them() -> None:
    names = [check.name for check in check_world([small_scenario(40)])]
    assert not any("max_tokens" in name for name in names)


def test_a_check_that_finds_no_planted_fault_does_not_hold() -> None:
    assert not Check("blind", "", "", 0.0).holds
    assert not Check("broken", "a leak", "a leak", 0.0).holds


def test_splits_are_alike_whatever_the_secret() -> None:
    assert [split_told(small_scenario(40), key, planted=False) for key in ("a", "b", "c")] == ["", "", ""]
