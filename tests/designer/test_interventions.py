"""What each intervention changes of a scenario or a winner, and when it is not applicable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from designer.interventions import Intervention, NotApplicable, interventions, mean_length, slots_of_part
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.simulator.workload_tables import Lengths
from designer.subject import load_subject, subject_of_specs
from policies.loader import builtin_names
from tests.support.small_scenario import small_scenario

SHARED = {"groups": 3, "tokens": {"median": 30.0}}
CACHING = [{"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 120, "enable_prefix_caching": True}}]


def of(scenario: Scenario, winner: str = "joint/head_room") -> dict[str, Intervention | NotApplicable]:
    subjects = subject_of_specs(winner), subject_of_specs("least_loaded+fcfs")
    return {step.without: step for step in interventions(Intervention("nothing", "none", "", scenario, *subjects))}


def there(scenario: Scenario, without: str) -> Any:
    step = of(scenario)[without]
    assert isinstance(step, Intervention)
    return step.scenario


def test_each_mechanism_changes_its_own_and_nothing_else() -> None:
    scenario = small_scenario()
    before = plan_workers(scenario)[0]
    plenty = plan_workers(there(scenario, "the shortage of KV memory and seats"))[0].config
    assert plenty.num_gpu_blocks == 50 * before.config.num_gpu_blocks
    assert plenty.max_num_seqs == 50 * before.config.max_num_seqs
    assert plenty.max_request_tokens == before.config.max_request_tokens, "what was refused is refused"
    assert plan_workers(there(scenario, "the cost of computing again"))[0].config.restore_preempted
    assert plan_workers(there(scenario, "the cost of prefill"))[0].profile.token_ps == 0
    assert not there(scenario, "holding in the gateway").counterfactual.holding
    for without in ("holding in the gateway", "the cost of prefill", "the cost of computing again"):
        assert there(scenario, without).workload == scenario.workload


def test_all_at_once_is_every_mechanism() -> None:
    whole = there(small_scenario(), "all of these")
    config = plan_workers(whole)[0].config
    assert not whole.counterfactual.holding
    assert whole.counterfactual.free_prefill
    assert config.restore_preempted
    assert config.num_gpu_blocks == 50 * 120


def test_traffic_loses_its_bursts_and_its_spread_and_keeps_its_means() -> None:
    scenario: Any = small_scenario(num_requests=4000)
    calm = there(scenario, "bursts").workload.arrivals
    assert (calm.process, calm.rate) == ("poisson", scenario.workload.arrivals.rate)
    for without, name in (("prompt", "num_prompt_tokens"), ("answer", "num_output_tokens")):
        alike = getattr(draw_workload(there(scenario, f"the spread of {without} lengths"), 1), name)
        assert len(np.unique(alike)) == 1
        assert alike.mean() == pytest.approx(getattr(draw_workload(scenario, 1), name).mean(), rel=0.06)
    assert there(scenario, "half of the load").workload.arrivals.rate == scenario.workload.arrivals.rate / 2


def test_the_mean_of_clipped_lengths_with_outliers() -> None:
    assert mean_length(Lengths(median=100.0)) == 100.0
    plain = Lengths(median=100.0, sigma=0.5)
    assert mean_length(plain) == pytest.approx(100.0 * np.exp(0.125), rel=0.01)
    assert mean_length(Lengths(median=100.0, outlier_fraction=0.1, outlier_factor=5.0)) == pytest.approx(140.0)
    assert mean_length(Lengths(median=100.0, sigma=3.0, max=100)) < 100.0


@pytest.mark.parametrize(
    ("changes", "without", "reason"),
    [
        ({}, "prefix-cache hits", "caches are off"),
        ({"workers": CACHING}, "prefix-cache hits", "no two prompts"),
        ({}, "cold starts", "fixed"),
    ],
)
def test_what_could_not_change_anything_is_named(changes: dict[str, Any], without: str, reason: str) -> None:
    step = of(small_scenario(**changes))[without]
    assert isinstance(step, NotApplicable)
    assert reason in step.reason


def test_hits_are_taken_away_where_there_are_any() -> None:
    scenario: Any = small_scenario(workers=CACHING)
    workload = scenario.workload.model_validate({**scenario.workload.model_dump(), "prefixes": SHARED})
    shared = scenario.model_copy(update={"workload": workload})
    assert not plan_workers(there(shared, "prefix-cache hits"))[0].config.enable_prefix_caching


def test_poisson_arrivals_and_like_lengths_have_nothing_to_lose() -> None:
    scenario: Any = small_scenario()
    plain = {"arrivals": {"rate": 3.0}, "prompt_tokens": {"median": 50.0}}
    workload = scenario.workload.model_validate({**scenario.workload.model_dump(), **plain})
    found = of(scenario.model_copy(update={"workload": workload}))
    assert isinstance(found["bursts"], NotApplicable)
    assert isinstance(found["the spread of prompt lengths"], NotApplicable)
    assert isinstance(found["the spread of answer lengths"], Intervention)


def test_a_slot_of_the_winner_is_given_to_the_comparator() -> None:
    found = of(small_scenario())
    step = found["the winner's scheduling rule"]
    assert isinstance(step, Intervention)
    first, second = step.winner.parts
    assert (first.name, first.slots) == ("joint/head_room", ("routing",))
    assert second.name.endswith("fcfs")
    filled = [slot for policy in load_subject(step.winner, 1) for slot in policy.slots if slot != "observer"]
    assert sorted(filled) == ["routing", "scheduling"]


def test_a_winner_of_one_slot_has_none_to_give() -> None:
    assert not any(step.without.startswith("the winner's") for step in of(small_scenario(), "least_tokens").values())


def test_the_text_tells_the_slots_of_every_policy_that_comes_along() -> None:
    for name in builtin_names():
        subject = subject_of_specs(name)
        (loaded,) = load_subject(subject, 1)
        assert set(slots_of_part(subject.parts[0])) == set(loaded.slots) - {"observer"}, name
