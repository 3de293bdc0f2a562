"""Changing the future changes no decision made before it, unless somebody knew."""

from __future__ import annotations

import numpy as np

from designer.foresight import altered_after, decisions_before, foresight
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from tests.support.small_scenario import small_scenario

SCENARIO = small_scenario(80)
COLUMNS = draw_workload(SCENARIO, 1)


def test_the_past_stays_and_the_future_is_another() -> None:
    result = simulate(SCENARIO, "least_loaded+fcfs", 1, workload=COLUMNS)
    altered = altered_after(COLUMNS, result, 40)
    assert np.array_equal(altered.arrival_ps[:41], COLUMNS.arrival_ps[:41])
    assert (altered.arrival_ps[41:] > COLUMNS.arrival_ps[41:]).all()
    ended = result.finished[:40] <= COLUMNS.arrival_ps[40] / 1e12
    assert np.array_equal(altered.num_output_tokens[:40][ended], COLUMNS.num_output_tokens[:40][ended])
    assert (altered.num_output_tokens[:40] >= COLUMNS.num_output_tokens[:40]).all()
    assert (altered.num_output_tokens != COLUMNS.num_output_tokens).any()


def test_honest_policies_know_nothing() -> None:
    for spec in ("head_room", "least_tokens+shortest_prompt_first", "power_of_two+fcfs"):
        assert foresight(SCENARIO, lambda _, spec=spec: spec, 1, COLUMNS) == ""


def test_a_policy_that_is_told_is_found() -> None:
    assert "decided otherwise" in foresight(SCENARIO, clairvoyant_policies, 1, COLUMNS)


def test_decisions_after_the_moment_do_not_count() -> None:
    result = simulate(SCENARIO, "least_loaded+fcfs", 1, workload=COLUMNS)
    other = simulate(SCENARIO, "round_robin+fcfs", 1, workload=COLUMNS)
    assert decisions_before(result, 0.0, 80) == decisions_before(other, 0.0, 80)
    assert decisions_before(result, 1e9, 80) != decisions_before(other, 1e9, 80)
