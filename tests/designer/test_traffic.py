"""Figures of a traffic, on traffic made to have them."""

from __future__ import annotations

from typing import Any

import pytest

from designer.simulator.scenario import Scenario
from designer.traffic import seen_by, told, traffic
from tests.support.small_scenario import small_scenario


def with_workload(**changes: Any) -> Scenario:
    scenario: Any = small_scenario()
    workload = scenario.workload.model_validate({**scenario.workload.model_dump(), **changes})
    return scenario.model_copy(update={"workload": workload})


def test_bursts_and_tails_show() -> None:
    calm = traffic(with_workload(arrivals={"rate": 30.0}, prompt_tokens={"median": 60.0}), [1, 2, 3])
    wild = traffic(with_workload(arrivals={"process": "lognormal", "rate": 30.0, "sigma": 2.0}), [1, 2, 3])
    assert calm["gap_cv"] == pytest.approx(1.0, abs=0.2)
    assert wild["gap_cv"] > 1.5
    assert calm["prompt_longest_tenth_share"] == pytest.approx(0.1)
    assert wild["prompt_longest_tenth_share"] > 0.3
    assert calm["prompt_p50"] == calm["prompt_p99"] == 60.0


def test_memory_in_demand_grows_with_the_load_and_falls_with_the_memory() -> None:
    tight = traffic(small_scenario(), [1])
    wide = [{"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 1200}}]
    roomy = traffic(small_scenario(workers=wide), [1])
    assert roomy["memory_mean"] == pytest.approx(tight["memory_mean"] / 10)
    assert tight["memory_peak"] > 1.0 > roomy["memory_peak"]
    assert tight["memory_short_share"] > 0.3
    assert roomy["memory_short_share"] == 0.0


def test_shared_beginnings_are_counted_once_two_have_them() -> None:
    assert traffic(small_scenario(), [1])["shared_prompt_share"] == 0.0
    shared = traffic(with_workload(prefixes={"groups": 2, "tokens": {"median": 512.0}}), [1])
    assert 0.5 < shared["shared_prompt_share"] <= 1.0


def test_every_line_has_its_figure_and_what_it_is_worth() -> None:
    met = {"preempted_share": 0.25, "held_share": 0.0, "cached_share": 0.5}
    lines = told(traffic(small_scenario(), [1]), {"the winner": met}, {"bursts": " Without bursts 40% is gone."})
    assert len(lines) == 6
    assert "(1 is Poisson's). Without bursts 40% is gone." in lines[2]
    assert "Under the winner 25.0% of the requests were preempted" in lines[-1]
    assert "50.0% of the prompt tokens were found in a prefix cache" in lines[-1]


def test_what_was_met_is_a_mean_over_seeds() -> None:
    rows = [{"preempted_share": share, "held_share": 0.0, "cached_share": None} for share in (0.1, 0.3)]
    assert seen_by(rows) == {"preempted_share": pytest.approx(0.2), "held_share": 0.0, "cached_share": 0.0}
