"""Drawn breakdowns: a function of scenario and seed."""

from __future__ import annotations

from typing import Any

import pytest

from designer.simulator.failures import draw_failures
from designer.simulator.scenario import Scenario
from gateway.mockworker.engine import PS_PER_SECOND
from tests.support.contended_scenario import contended_scenario


def scenario(*failures: dict[str, Any]) -> Scenario:
    return contended_scenario(failures=list(failures))


def seconds(hours: float) -> int:
    return round(hours * 3600) * PS_PER_SECOND


def test_a_fixed_time_is_kept_and_all_are_in_order() -> None:
    two = scenario({"at_seconds": 9.0, "down_seconds": 1.0}, {"at_seconds": 3.0, "down_seconds": 2.0, "worker": 1})
    drawn = draw_failures(two, 1, 0)
    assert [one.time for one in drawn] == [3 * PS_PER_SECOND, 9 * PS_PER_SECOND]
    assert drawn[0].failure.worker == 1


def test_a_rate_is_met_and_ends_with_the_arrivals() -> None:
    rate = scenario({"mean_seconds_between": 60.0, "down_seconds": 1.0})
    drawn = draw_failures(rate, 1, seconds(20))
    assert len(drawn) == pytest.approx(1200, rel=0.1)
    assert drawn[-1].time <= seconds(20)
    assert all(0 <= one.share < 1 for one in drawn)
    assert draw_failures(rate, 1, seconds(1)) == drawn[: len(draw_failures(rate, 1, seconds(1)))]
    assert draw_failures(rate, 2, seconds(1)) != draw_failures(rate, 1, seconds(1))


def test_another_entry_moves_no_draw() -> None:
    rate = {"mean_seconds_between": 60.0, "down_seconds": 1.0}
    alone = draw_failures(scenario(rate), 1, seconds(1))
    both = draw_failures(scenario(rate, {"at_seconds": 5.0, "down_seconds": 1.0}), 1, seconds(1))
    assert [one for one in both if one.failure.at_seconds is None] == alone
