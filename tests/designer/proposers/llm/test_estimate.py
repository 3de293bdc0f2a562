"""The guess at the start: grows with the budget, costs what the prices say, names the caps."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.proposers.llm.baselines import Baselines
from designer.proposers.llm.briefing import briefing
from designer.proposers.llm.estimate import estimate
from designer.proposers.llm.prompts import read_prompts
from designer.proposers.llm.settings import LlmSettings, make_settings
from tests.support.small_scenario import small_scenario


@pytest.fixture
def told() -> dict[str, str]:
    known = Baselines({"least_loaded+fcfs": {1: 2.0}})
    return briefing(small_scenario(), known, [1], ("routing",), read_prompts("", Path()))


def settings(price: str = "2.5,10", **changes: object) -> LlmSettings:
    made = make_settings(model="m", base_url="http://h/v1", price=price)
    return LlmSettings.model_validate({**made.model_dump(), **changes})


def test_more_simulations_cost_more_and_a_server_of_ones_own_nothing(told: dict[str, str]) -> None:
    small, large = estimate(settings(), 10, told), estimate(settings(), 100, told)
    assert small.dollars < large.dollars
    assert small.requests < large.requests
    assert estimate(settings(price="0"), 100, told).dollars == 0.0


def test_contexts_that_start_afresh_send_less(told: dict[str, str]) -> None:
    one = estimate(settings(), 90, told)
    five = estimate(settings(mode="sequential", contexts=5), 90, told)
    assert five.experiments == pytest.approx(one.experiments)
    assert five.tokens < one.tokens


def test_it_says_what_will_hold(told: dict[str, str]) -> None:
    text = estimate(settings(), 100, told).text(settings())
    assert text.startswith("llm: estimate, not a bound: 67 experiments, ")
    assert "never more than $5, 5 million tokens, 1000 requests, 240 min" in text
