"""What a model is told: statistics of this traffic, the contract's own words, and nothing of the hidden seeds."""

from __future__ import annotations

import pytest

from designer.proposers.llm.briefing import briefing, characterise, contract_fields, rules
from designer.proposers.llm.prompts import MARKS
from designer.simulator.scenario import load_scenario, scenario_names
from designer.simulator.workload import draw_workload
from tests.support.small_scenario import small_scenario

SCORES = {11: 2.0, 12: 3.5}


def test_every_mark_of_the_prompts_is_given() -> None:
    told = briefing(small_scenario(), "least_loaded+fcfs", SCORES, list(SCORES))
    assert set(told) == set(MARKS["researcher"])
    assert told["reference"] == "least_loaded+fcfs (its mean response time on the train seeds: 2 to 3.5 s)"
    assert "expected_output_tokens" in told["contract"]
    assert "_SLOT_SHAPES" not in told["contract"]
    assert '"rate": 30.0' in told["scenario"]


def test_the_traffic_is_described_by_its_figures() -> None:
    text = characterise(draw_workload(small_scenario(400), 11))
    assert text.startswith("400 requests in ")
    assert "prompt tokens: mean" in text
    assert "longest tenth of prompts holds" in text
    assert "tenants" not in text


@pytest.mark.parametrize("name", [n for n in scenario_names() if n not in ("mooncake", "azure-conv")])
def test_every_scenario_can_be_described(name: str) -> None:
    assert "requests in" in characterise(draw_workload(load_scenario(name), 1))


def test_the_short_contract_names_every_field_and_the_rules_what_may_be_imported() -> None:
    assert "num_inflight_tokens=0" in contract_fields()
    assert "request: request_id, model" in contract_fields()
    assert "math" in rules()
    assert "while" in rules()
