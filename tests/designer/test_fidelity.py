"""Real time beside the simulator: the arithmetic, and one small run through the real processes."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from designer.fidelity import (
    Comparison,
    Fidelity,
    FidelityError,
    Side,
    Times,
    compare,
    gateway_toml,
    once_more,
    side_of_records,
)
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario, load_scenario
from designer.simulator.workload import draw_workload
from gateway.config_file import load_config


def comparison(policy: str, real: float, simulated: float, verdict: str = "valid") -> Comparison:
    def side(mean: float) -> Side:
        return Side(10, 10, Times(mean / 10, mean / 2), Times(mean, mean * 3))

    return Comparison(policy, side(real), side(simulated), verdict, 0.001)


def fidelity(*comparisons: Comparison) -> Fidelity:
    return Fidelity("small", 1, 1.0, comparisons)


def record(end: float, first_token: float | None = 1.5, error: str | None = None) -> dict[str, Any]:
    return {"intended": 1.0, "first_token": first_token, "end": end, "error": error}


def small() -> Scenario:
    scenario = load_scenario("demo")
    workload = scenario.workload.model_copy(update={"duration_seconds": 0.5})
    return scenario.model_copy(update={"workload": workload})


def test_errors_are_simulated_over_real() -> None:
    told = comparison("a", real=2.0, simulated=1.5)
    assert told.error("response_time", "mean") == pytest.approx(-0.25)
    assert told.error("ttft", "p99") == pytest.approx(-0.25)


def test_records_are_counted_in_the_scenario_s_seconds_from_the_intended_time() -> None:
    side = side_of_records([record(3.0), record(2.0), record(9.0, None, "timeout")], speed=2.0)
    assert (side.num_requests, side.num_completed) == (3, 2)
    assert side.response_time.mean == pytest.approx(3.0)
    assert side.ttft == Times(1.0, 1.0)


def test_nothing_answered_has_no_times() -> None:
    assert math.isnan(side_of_records([record(2.0, None, "timeout")], 1.0).response_time.mean)


def test_invalid_runs_count_for_nothing() -> None:
    told = fidelity(comparison("a", 1.0, 1.1), comparison("b", 1.0, 9.0, "invalid: the client was late"))
    assert [c.policy for c in told.valid] == ["a"]
    assert told.worst_error("response_time", "mean") == pytest.approx(0.1)
    assert told.mean_error("response_time", "mean") == pytest.approx(0.1)
    assert told.rank_correlation("response_time") is None
    assert fidelity().worst_error("ttft", "mean") is None


def test_ranks() -> None:
    same = [comparison(str(i), real=float(i), simulated=float(i * i)) for i in range(1, 5)]
    assert fidelity(*same).rank_correlation("response_time") == pytest.approx((1.0, 1.0))
    turned = [comparison(str(i), real=float(i), simulated=float(-i)) for i in range(1, 5)]
    assert fidelity(*turned).rank_correlation("response_time") == pytest.approx((-1.0, -1.0))


def test_the_gateway_s_configuration_is_the_scenario_s(tmp_path: Path) -> None:
    scenario = small()
    plans = plan_workers(scenario)
    urls = [f"http://127.0.0.1:{9000 + index}" for index in range(len(plans))]
    text = gateway_toml(scenario, plans, urls, seed=7, speed=2.0)
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    config = load_config(path)
    assert config.scrape.interval_seconds == 0.5
    assert config.policy.seed == 7
    assert [worker["id"] for worker in tomllib.loads(text)["worker"]] == [plan.worker_id for plan in plans]


def test_no_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FidelityError, match="name at least one policy"):
        compare(small(), [], 1, tmp_path)


def brief() -> Scenario:
    """As ``small``, with answers of a second at most."""
    scenario = small()
    outputs = scenario.workload.output_tokens.model_copy(update={"max": 20})  # type: ignore[union-attr]
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"output_tokens": outputs})})


def test_a_real_gateway_hears_and_decides_what_the_simulated_one_does(tmp_path: Path) -> None:
    """For a policy that does not go by time, every decision is the same, however late anything was."""
    scenario = brief()
    told = compare(scenario, ["random"], 3, tmp_path)
    (only,) = told.comparisons
    assert only.real.num_completed == only.real.num_requests == len(draw_workload(scenario, 3))
    assert only.simulated.num_completed == only.real.num_requests
    assert 0 < only.real.ttft.mean < only.real.response_time.mean
    assert only.is_valid == (only.verdict == "valid")
    assert only.heard is not None
    assert only.heard.num_requests == only.real.num_requests
    assert dict(only.heard.fields) == {}
    assert only.heard.same_worker == 1.0


def test_a_run_that_is_invalid_is_made_once_more() -> None:
    good, bad = comparison("a", 1.0, 1.0), comparison("a", 1.0, 1.0, "invalid: the client was late")
    runs = iter([good])
    assert once_more(lambda: next(runs)) == good
    runs = iter([bad, good])
    assert once_more(lambda: next(runs)) == replace(good, num_runs=2, first_verdict=bad.verdict)
    runs = iter([bad, bad, good])
    assert once_more(lambda: next(runs)) == replace(bad, num_runs=2, first_verdict=bad.verdict)
