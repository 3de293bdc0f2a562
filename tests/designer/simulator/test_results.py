"""Metrics on columns made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from designer.simulator.results import OUTCOMES, SimulationResult
from designer.simulator.scenario import Objective

NAN = float("nan")


def result(**changes: Any) -> SimulationResult:
    """Four requests: two answered, one shed at once, one that left after 700 seconds."""
    columns: dict[str, Any] = {
        "seed": 1,
        "objective": Objective(penalty_seconds=100.0, ttft_slo_seconds=3.0),
        "workers": ("w0", "w1"),
        "tenants": ("default",),
        "arrival": np.array([0.0, 1.0, 2.0, 3.0]),
        "dispatched": np.array([0.0, 2.0, NAN, 3.0]),
        "first_token": np.array([1.0, 5.0, NAN, NAN]),
        "finished": np.array([10.0, 6.0, 2.0, 703.0]),
        "worker": np.array([0, 1, -1, 0]),
        "tenant": np.array([0, 0, 0, 0]),
        "outcome": np.array([OUTCOMES.index(o) for o in ("completed", "completed", "shed", "left")], dtype=np.int8),
        "prompt": np.array([10, 10, 10, 70]),
        "output": np.array([10, 1, 5, 50]),
        "made": np.array([10, 1, 0, 20]),
        "cached": np.array([0, 5, 0, 5]),
        "preemptions": np.array([2, 0, 0, 1]),
        "num_dispatches": np.array([1, 1, 0, 1]),
        "ttft_slo": np.array([NAN, 4.5, NAN, NAN]),
        "counters": {"num_events": 9},
    }
    return SimulationResult(**(columns | changes))


def test_unanswered_requests_score_the_penalty_or_their_wait_if_longer() -> None:
    assert result().response_times.tolist() == [10.0, 5.0, 100.0, 700.0]
    assert result().ttfts.tolist() == [1.0, 4.0, 100.0, 700.0]
    assert result().mean_response_time == pytest.approx(815 / 4)


@pytest.mark.parametrize(
    ("metric", "value"),
    [("mean_response_time", 815 / 4), ("mean_ttft", 805 / 4), ("p99_response_time", 682.0), ("p99_ttft", 682.0)],
)
def test_objective(metric: Any, value: float) -> None:
    assert result(objective=Objective(metric=metric, penalty_seconds=100.0)).objective_value == pytest.approx(value)


def test_tpot_leaves_out_answers_of_one_token() -> None:
    assert result().tpots.tolist() == [1.0]


def test_goodput_counts_promises_of_the_request_before_the_objectives() -> None:
    assert result().met_slo.tolist() == [True, True, False, False]
    assert result(ttft_slo=np.full(4, NAN)).met_slo.tolist() == [True, False, False, False]
    tight = Objective(penalty_seconds=100.0, tpot_slo_seconds=0.9)
    assert result(objective=tight).met_slo.tolist() == [False, False, False, False]


def test_summary() -> None:
    summary = result().summary()
    assert summary["num_requests"] == 4
    assert summary["num_completed"] == 2
    assert summary["num_unserved"] == {"shed": 1, "left": 1}
    assert summary["makespan"] == 703.0
    assert summary["goodput"] == pytest.approx(2 / 703)
    assert summary["preempted_share"] == pytest.approx(2 / 3)
    assert summary["num_preemptions"] == 3
    assert summary["mean_held"] == pytest.approx(1 / 3)
    assert summary["held_share"] == pytest.approx(1 / 3)
    assert summary["cached_share"] == pytest.approx(0.1)
    assert summary["output_tokens_per_second"] == pytest.approx(11 / 703)
    assert summary["num_events"] == 9


def test_itl_counts_gaps_not_requests() -> None:
    made = np.array([10, 4, 0, 20])
    assert result(made=made).mean_itl == pytest.approx((9.0 + 1.0) / (9 + 3))
    assert result(made=np.ones(4, dtype=np.int64)).mean_itl is None


def test_fairness_is_over_what_tenants_get_per_second_of_waiting() -> None:
    assert result().fairness == 1.0
    two = result(tenants=("a", "b"), tenant=np.array([0, 1, 0, 0]))
    assert two.tenant_speeds == {"a": pytest.approx(10 / 810), "b": pytest.approx(1 / 5)}
    a, b = 10 / 810, 1 / 5
    assert two.fairness == pytest.approx((a + b) ** 2 / (2 * (a * a + b * b)))
    silent = result(tenants=("a", "nobody"))
    assert list(silent.tenant_speeds) == ["a"]


def test_worker_seconds_and_parts() -> None:
    parts = {"held": np.array([0, 1, 2, 0]) * 10**12, "decode": np.array([4, 0, 0, 0]) * 10**12}
    made = result(parts_ps=parts, recomputed=np.array([30, 0, 0, 12]))
    summary = made.summary()
    assert summary["worker_seconds"] == 2 * 703.0
    assert summary["mean_parts"] == {"held": 0.75, "decode": 1.0}
    assert summary["num_recomputed_tokens"] == 42
    assert made.columns()["decode_seconds"] == [4.0, 0.0, 0.0, 0.0]
    assert result(counters={"worker_seconds": 5.0}).summary()["worker_seconds"] == 5.0


def test_a_run_without_answers_has_a_summary() -> None:
    shed = np.full(4, OUTCOMES.index("shed"), dtype=np.int8)
    summary = result(outcome=shed, num_dispatches=np.zeros(4, dtype=np.int64)).summary()
    assert summary["mean_tpot"] is None
    assert summary["mean_held"] == 0.0


def test_json_with_columns() -> None:
    content = orjson.loads(result().to_json(columns=True))
    assert content["columns"]["worker"] == ["w0", "w1", None, "w0"]
    assert content["columns"]["first_token"] == [1.0, 5.0, None, None]
    assert content["columns"]["outcome"] == ["completed", "completed", "shed", "left"]
    assert "columns" not in orjson.loads(result().to_json())
