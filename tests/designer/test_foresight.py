"""Changing the future changes no decision made before it, unless somebody knew."""

from __future__ import annotations

import numpy as np

from designer.foresight import altered_by, foresight, past
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.workload import draw_workload
from tests.support.small_scenario import small_scenario

SCENARIO = small_scenario(80)
COLUMNS = draw_workload(SCENARIO, 1)


def test_the_past_stays_and_the_future_is_another() -> None:
    real = past(SCENARIO, "head_room", 1, COLUMNS)
    altered = altered_by(COLUMNS, real)
    here = COLUMNS.arrival_ps < real["moment"] * 1e12
    assert np.array_equal(altered.arrival_ps[here], COLUMNS.arrival_ps[here])
    assert (altered.arrival_ps[~here] >= COLUMNS.arrival_ps[~here]).all()
    ended = np.setdiff1d(np.arange(80), real["under_way"])
    assert len(ended) > 2
    assert np.array_equal(altered.num_output_tokens[ended], COLUMNS.num_output_tokens[ended])
    held = np.flatnonzero(here)[np.isin(np.flatnonzero(here), real["under_way"])]
    before, after = COLUMNS.num_output_tokens[held], altered.num_output_tokens[held]
    assert (after >= before).all()
    assert not np.array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))


def test_honest_policies_know_nothing() -> None:
    for spec in ("head_room", "least_tokens+shortest_prompt_first", "power_of_two+fcfs"):
        assert foresight(SCENARIO, lambda _, spec=spec: spec, 1, COLUMNS) == ""


def test_a_policy_that_is_told_is_found() -> None:
    assert "decided otherwise" in foresight(SCENARIO, clairvoyant_policies, 1, COLUMNS)


def test_decisions_after_the_moment_do_not_count() -> None:
    first, then = (
        [past(SCENARIO, spec, 1, COLUMNS, moment=moment) for spec in ("least_loaded+fcfs", "round_robin+fcfs")]
        for moment in (0.0, 1e9)
    )
    assert first[0]["decisions"] == first[1]["decisions"]
    assert then[0]["decisions"] != then[1]["decisions"]
    assert first[0]["under_way"] == list(range(80))
    assert then[0]["under_way"] == []


def test_half_of_the_requests_are_sent_before_the_moment() -> None:
    real = past(SCENARIO, "head_room", 1, COLUMNS)
    assert real["moment"] > 0.0
    sooner = past(SCENARIO, "head_room", 1, COLUMNS, moment=real["moment"] / 2)
    assert sooner["decisions"] != real["decisions"]
    assert set(real["under_way"]) < set(sooner["under_way"])
