"""Lower bounds: below every policy on every seed tried, tight where a request is alone, and hand-worked schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from designer.simulator.bounds import _least_busy, _shortest_remaining, lower_bound
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from tests.support.contended_scenario import by_hand, contended_scenario

POLICIES = ("random", "round_robin", "least_waiting", "least_loaded", "least_tokens", "expert", "head_room")
PREFIXES = {"groups": 3, "fraction": 0.7, "tokens": {"median": 300.0}}


def scenario(**workload: Any) -> Scenario:
    return contended_scenario(workload=workload)


CACHED = contended_scenario(
    workload={"prefixes": PREFIXES},
    workers=[
        {"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 100, "enable_prefix_caching": True}}
    ],
)
MIXED = contended_scenario(
    workers=[
        {"profile": "a10-llama3-8b", "engine": {"num_gpu_blocks": 100}},
        {
            "profile": "h100-llama3-8b",
            "variant": "h100",
            "engine": {"num_gpu_blocks": 70, "max_num_batched_tokens": 64},
        },
    ]
)
SCENARIOS = {
    "tight": scenario(),
    "a crowd": scenario(arrivals={"process": "poisson", "rate": 400.0}, num_requests=60),
    "lonely": scenario(arrivals={"process": "poisson", "rate": 0.2}, num_requests=20),
    "cached": CACHED,
    "mixed": MIXED,
    "sessions": scenario(
        sessions={"turns": {"median": 3.0}, "think_seconds": 1.0, "max_prompt_tokens": 1200}, num_requests=20
    ),
    "failures": contended_scenario(failures=[{"at_seconds": 1.0, "worker": 0, "down_seconds": 2.0}]),
    "scaled": contended_scenario(
        workers=[{"profile": "a10-llama3-8b", "max_replicas": 3, "engine": {"num_gpu_blocks": 100}}]
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_policy_is_below_the_bound(name: str, seed: int) -> None:
    scenario = SCENARIOS[name]
    columns = draw_workload(scenario, seed)
    bound = lower_bound(scenario, columns, plan_workers(scenario))
    assert 0 < bound.solo <= bound.mean_response_time
    assert bound.pooled >= bound.solo - 1e-9 or np.isinf(bound.solo)
    for policy in (*POLICIES, clairvoyant_policies(columns)):
        result = simulate(scenario, policy, seed)
        assert result.mean_response_time >= bound.solo
        if result.completed.all():
            assert result.mean_response_time >= bound.mean_response_time


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([1.0, 10.0, 100.0, 1000.0]),
    blocks=st.sampled_from([80, 150, 1000]),
    seqs=st.sampled_from([1, 4, 128]),
    caching=st.booleans(),
    policy=st.sampled_from(POLICIES),
)
def test_no_run_is_below_the_bound(seed: int, rate: float, blocks: int, seqs: int, caching: bool, policy: str) -> None:
    engine = {"num_gpu_blocks": blocks, "max_num_seqs": seqs, "enable_prefix_caching": caching}
    drawn = contended_scenario(
        workload={"num_requests": 25, "arrivals": {"process": "poisson", "rate": rate}, "prefixes": PREFIXES},
        workers=[{"profile": "a100-llama3-8b", "count": 2, "engine": engine}],
    )
    result = simulate(drawn, policy, seed)
    bound = lower_bound(drawn, draw_workload(drawn, seed), plan_workers(drawn))
    assert result.mean_response_time >= (bound.mean_response_time if result.completed.all() else bound.solo)


def test_alone_it_is_what_a_request_takes(tmp_path: Path) -> None:
    alone = by_hand(tmp_path)
    bound = lower_bound(alone, draw_workload(alone, 1), plan_workers(alone))
    assert bound.mean_response_time == pytest.approx(0.034, abs=1e-9)
    assert simulate(alone, "random", 1).mean_response_time == pytest.approx(0.034)


def test_a_crowd_is_held_to_more_than_its_loneliness() -> None:
    crowd = contended_scenario(
        workload={"num_requests": 300, "arrivals": {"process": "poisson", "rate": 10_000.0}},
        workers=[{"profile": "a10-llama3-8b", "engine": {"num_gpu_blocks": 80, "max_num_seqs": 2}}],
    )
    bound = lower_bound(crowd, draw_workload(crowd, 1), plan_workers(crowd))
    assert bound.pooled > 5 * bound.solo
    assert bound.busy > 5 * bound.solo


@pytest.mark.parametrize("name", ["sessions", "scaled"])
def test_where_policies_decide_what_comes_or_serves_less_is_claimed(name: str) -> None:
    bound = lower_bound(SCENARIOS[name], draw_workload(SCENARIOS[name], 1), plan_workers(SCENARIOS[name]))
    assert bound.solo == bound.pooled == bound.busy == bound.priced


def test_a_request_that_no_worker_can_hold_scores_the_penalty() -> None:
    huge = contended_scenario(
        workload={"num_requests": 4, "prompt_tokens": {"median": 1700.0, "sigma": 0.0, "max": 9999}},
        objective={"penalty_seconds": 50.0},
    )
    bound = lower_bound(huge, draw_workload(huge, 1), plan_workers(huge))
    assert bound == type(bound)(50.0, 50.0, 50.0, 50.0)
    assert simulate(huge, "random", 1).mean_response_time == 50.0


def test_shortest_remaining_first_by_hand() -> None:
    # 5 units at 0; 1 unit at 2 goes first; 3 units at 4 wait for the 2 that are left.
    ends = _shortest_remaining(np.array([0.0, 2.0, 4.0]), np.array([5.0, 1.0, 3.0]))
    assert ends.tolist() == [3.0, 6.0, 9.0]
    assert _shortest_remaining(np.array([0.0, 10.0]), np.array([1.0, 1.0])).tolist() == [1.0, 11.0]


def test_least_mean_busy_time_by_hand() -> None:
    # 4 units served in 0 … 1 and 2 … 5, 1 unit in 1 … 2: means (0.5 * 1 + 3.5 * 3) / 4 and 1.5.
    total = _least_busy(np.array([0.0, 1.0]), np.array([4.0, 1.0]))
    assert total == pytest.approx(2.75 + 1.5 - 1.0)


def test_where_turns_follow_answers_only_the_bound_of_each_alone_is_claimed() -> None:
    sessions = {"turns": {"median": 3.0}, "think_seconds": 1.0, "max_prompt_tokens": 1000}
    several = scenario(num_requests=30, sessions=sessions)
    drawn = draw_workload(several, 1)
    bound = lower_bound(several, drawn, plan_workers(several))
    assert bound.mean_response_time == bound.solo
    for spec in POLICIES[:3]:
        assert simulate(several, spec, 1).mean_response_time >= bound.solo
