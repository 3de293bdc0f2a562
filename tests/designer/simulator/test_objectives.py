"""One number for a simulation, whatever the scenario asks for."""

from dataclasses import replace

import numpy as np
import pytest

from designer.simulator.objectives import objective_value, overrun
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Objective, ScenarioError
from designer.simulator.world import simulate
from tests.support.small_scenario import small_scenario


@pytest.fixture(scope="module")
def result() -> SimulationResult:
    return simulate(small_scenario(), "least_loaded", 1)


def with_objective(result: SimulationResult, **settings: object) -> SimulationResult:
    return replace(result, objective=Objective.model_validate(settings))


def test_times(result: SimulationResult) -> None:
    assert objective_value(result) == result.response_times.mean()
    assert objective_value(with_objective(result, metric="p99_ttft")) == np.percentile(result.ttfts, 99)


def test_goodput_is_turned_over(result: SimulationResult) -> None:
    asked = with_objective(result, metric="seconds_per_good_request", ttft_slo_seconds=0.5)
    assert objective_value(asked) == pytest.approx(1.0 / asked.goodput)
    assert asked.goodput < result.goodput


def test_worker_seconds_count_in_full_while_the_promises_are_kept(result: SimulationResult) -> None:
    kept = with_objective(result, metric="worker_seconds", ttft_slo_seconds=1000.0)
    assert objective_value(kept) == kept.worker_seconds == pytest.approx(2 * result.finished.max())


def test_worker_seconds_grow_with_the_misses_beyond_those_allowed(result: SimulationResult) -> None:
    broken = with_objective(result, metric="worker_seconds", ttft_slo_seconds=0.5, slo_share=0.9)
    missed = 1.0 - broken.met_slo.mean()
    assert missed > 0.1
    assert overrun(broken) == pytest.approx(missed / 0.1)
    assert objective_value(broken) == pytest.approx(broken.worker_seconds * missed / 0.1)


def test_a_weighted_sum(result: SimulationResult) -> None:
    both = with_objective(result, metric="weighted", weights={"mean_ttft": 2.0, "worker_seconds": 0.5})
    assert objective_value(both) == pytest.approx(2.0 * result.ttfts.mean() + 0.5 * result.worker_seconds)


def test_weights_without_a_weighted_metric_are_refused() -> None:
    with pytest.raises(ScenarioError, match="weights and metric = 'weighted' go together"):
        small_scenario(objective={"metric": "mean_ttft", "weights": {"mean_ttft": 1.0}})
