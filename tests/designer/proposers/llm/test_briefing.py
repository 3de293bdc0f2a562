"""What a model is told: statistics of this traffic, the contract's own words, and nothing of the hidden seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from designer.proposers.llm.baselines import Baselines
from designer.proposers.llm.briefing import briefing, characterise, contract_fields, rules
from designer.proposers.llm.prompts import MARKS, fill, read_prompts
from designer.proposers.roster import parse_target
from designer.simulator.scenario import load_scenario, scenario_names
from designer.simulator.workload import draw_workload
from designer.targets import baselines_of
from policies.conformance import check_source
from tests.support.small_scenario import small_scenario

SCORES = {11: 2.0, 12: 3.5}
METHODS = {
    "routing": ("route", "admit", "key"),
    "scheduling": ("admit", "key"),
    "autoscaling": ("desired_replicas",),
    "batch": ("waiting_key", "victim_key", "prefill_budget"),
}
PROTOCOLS = {"routing": "RoutingPolicy", "autoscaling": "AutoscalingPolicy", "batch": "BatchPolicy"}


def told(target: str = "routing", scenario: str = "", prompts: str = "") -> dict[str, str]:
    made = load_scenario(scenario) if scenario else small_scenario()
    known = Baselines(dict.fromkeys(baselines_of(target, made), SCORES))
    return briefing(made, known, list(SCORES), parse_target(target), read_prompts(prompts, Path()))


def test_every_mark_of_the_prompts_is_given() -> None:
    given = told()
    assert set(given) == set(MARKS["researcher"])
    assert given["reference"] == "least_loaded+fcfs (its mean response time on the train seeds: 2 to 3.5 s)"
    assert "expected_output_tokens" in given["contract"]
    assert "_SLOT_SHAPES" not in given["contract"]
    assert '"rate": 30.0' in given["scenario"]


@pytest.mark.parametrize("prompts", ["", "small"])
@pytest.mark.parametrize(
    "target", ["routing", "scheduling", "autoscaling", "batch", "routing,autoscaling", "scheduling,autoscaling,batch"]
)
def test_a_researcher_is_told_of_its_target_and_of_no_other(target: str, prompts: str) -> None:
    text = fill(read_prompts(prompts, Path())["researcher"], told(target, "diurnal", prompts))
    parts = target.split(",")
    for part, methods in METHODS.items():
        for method in methods:
            shown = part in parts or (part == "scheduling" and "routing" in parts)
            shown |= part == "routing" and "scheduling" in parts and method != "route"
            if method == "route" and "scheduling" in parts:
                continue
            assert (f"`{method}`" in text, f"def {method}(" in text) == (shown, shown), (part, method)
    modules = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def create" in block]
    assert len(modules) == 1
    assert check_source(modules[0]) == []


@pytest.mark.parametrize("target", ["routing", "autoscaling", "batch", "routing,batch"])
def test_the_contract_is_shown_as_far_as_it_concerns_the_target(target: str) -> None:
    text = told(target)["contract"]
    compile(text, "contract", "exec")
    shown = {part for part, name in PROTOCOLS.items() if f"class {name}" in text}
    assert shown == set(target.split(","))
    assert ("class Finished" in text) == (target != "batch")
    assert "class Rng" in text


def test_autoscaling_is_told_what_servers_there_are_and_what_they_cost() -> None:
    given = told("autoscaling", "diurnal")
    assert "asked every 5 s; a wish for more counts once it has lasted 0 s, one for fewer 30 s" in given["target"]
    assert "a100: 1 to 8, 2 at the start, one that is asked for takes requests 20 s later" in given["target"]
    assert "worker seconds: the seconds of all servers" in given["objective_rule"]
    assert "least_loaded+fcfs+queue_length: 1.000 times the reference" in given["baselines"]
    assert "nothing can be won here" in told("autoscaling")["target"]


def test_several_parts_are_one_class() -> None:
    given = told("routing,autoscaling", "diurnal")
    assert "routing, autoscaling, jointly: one class has the methods of all these parts" in given["target"]
    assert given["example"].count("class ") == 1
    assert "jointly" not in told("autoscaling")["target"]


def test_the_supervisor_sees_no_code_whatever_the_target() -> None:
    supervisor = read_prompts("", Path())["supervisor"]
    for target in ("routing", "scheduling,autoscaling,batch"):
        given = told(target, "diurnal")
        text = fill(supervisor, {mark: given[mark] for mark in MARKS["supervisor"]})
        assert given["task"] in text
        assert "def " not in text


def test_the_traffic_is_described_by_its_figures() -> None:
    text = characterise(draw_workload(small_scenario(400), 11))
    assert text.startswith("400 requests in ")
    assert "prompt tokens: mean" in text
    assert "longest tenth of prompts holds" in text
    assert "requests a second in each tenth of that time: " in text
    assert "tenants" not in text


@pytest.mark.parametrize("name", [n for n in scenario_names() if n not in ("mooncake", "azure-conv")])
def test_every_scenario_can_be_described(name: str) -> None:
    assert "requests in" in characterise(draw_workload(load_scenario(name), 1))


def test_the_short_contract_names_every_field_and_the_rules_what_may_be_imported() -> None:
    assert "num_inflight_tokens=0" in contract_fields(("routing",))
    assert "request: request_id, model" in contract_fields(("routing",))
    assert contract_fields(("batch",)).startswith("request in an engine: request_id, num_prompt_tokens")
    assert "variant: name" in contract_fields(("autoscaling",))
    assert "request: " not in contract_fields(("autoscaling",))
    assert "math" in rules()
    assert "while" in rules()
