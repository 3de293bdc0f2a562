"""The time line of a run agrees with the run's own columns."""

from __future__ import annotations

import numpy as np
import pytest

from designer.simulator.timeline import Timeline, preemptions_over_time
from designer.simulator.world import simulate
from gateway.core.commands import Dispatch, Reject
from gateway.core.events import ClientLeft, MetricsScraped, RequestArrived, RequestEnded, WorkerMetrics
from tests.support.contended_scenario import contended_scenario


def arrived(time: float, request_id: str) -> RequestArrived:
    return RequestArrived(time=time, request_id=request_id, model="m")


def test_the_queue_counts_who_waits() -> None:
    line = Timeline()
    line(arrived(1.0, "a"), [Dispatch("a", "w", 0)])
    line(arrived(2.0, "b"), [])
    line(arrived(3.0, "c"), [])
    line(ClientLeft(4.0, "c"), [])
    line(arrived(5.0, "d"), [Reject("b", "shed")])
    line(RequestEnded(6.0, "a", "failed", retriable=True), [])
    line(RequestEnded(7.0, "x", "completed"), [Dispatch("a", "w", 0), Dispatch("d", "w", 0)])
    assert list(zip(line.held_times, line.held, strict=True)) == [(0, 0), (2, 1), (3, 2), (4, 1), (6, 2), (7, 0)]
    assert line.summary() == {"mean_kv_usage": None, "p99_kv_usage": None, "max_held": 2}


def test_workers_are_what_scrapes_say_at_the_time_they_were_taken() -> None:
    line = Timeline()
    line(MetricsScraped(2.5, "w", WorkerMetrics(3, 1, 0.5), 2.4), [])
    line(MetricsScraped(3.5, "w", WorkerMetrics(4, 0, 1.0), 3.4), [])
    worker = line.workers["w"]
    assert (worker.times, worker.running, worker.waiting) == ([2.4, 3.4], [3, 4], [1, 0])
    assert line.summary()["mean_kv_usage"] == 0.75


def test_a_whole_run() -> None:
    line = Timeline()
    scenario = contended_scenario()
    result = simulate(scenario, "head_room", 1, sink=line)
    assert line.held[-1] == 0
    assert _area(line) == pytest.approx(result.held.sum())
    assert set(line.workers) == set(result.workers)
    total = sum(preemptions_over_time(result, worker)[1][-1:].sum() for worker in result.workers)
    assert total == result.preemptions.sum() > 0
    assert simulate(scenario, "head_room", 1).to_json(columns=True) == result.to_json(columns=True)


def _area(line: Timeline) -> float:
    """Request-seconds spent held."""
    return float((np.diff(line.held_times) * line.held[:-1]).sum())
