"""Parts of response times: by hand, and their sum in whole runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from designer.simulator.breakdown import PARTS, split
from designer.simulator.world import simulate
from gateway.mockworker.engine import PS_PER_SECOND, RequestStats
from tests.support.contended_scenario import by_hand, contended_scenario


@dataclass
class Ended:
    outcome: str | None = "completed"
    arrival_ps: int = 100
    dispatched: int = 110
    ended: int = 200
    stats: RequestStats | None = None


def stats(preempted_ps: int, prefill_preempted_ps: int = 0) -> RequestStats:
    return RequestStats("r0", 112, 120, 140, 195, 8, 4, 0, 1, 9, preempted_ps, prefill_preempted_ps)


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (Ended(stats=stats(0)), (10, 7, 8, 20, 55, 0, 0)),
        (Ended(stats=stats(30)), (10, 7, 8, 20, 25, 30, 0)),
        (Ended(stats=stats(30, 12)), (10, 7, 8, 8, 37, 30, 0)),
        (Ended(stats=stats(12, 12)), (10, 7, 8, 8, 55, 12, 0)),
        (Ended("left", stats=stats(30)), (10, 0, 0, 0, 0, 0, 90)),
        (Ended("shed", dispatched=-1), (100, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_parts_by_hand(request_: Ended, parts: tuple[int, ...]) -> None:
    assert split(request_) == parts
    assert sum(parts) == request_.ended - request_.arrival_ps


@pytest.mark.parametrize("policy", ["least_loaded", "head_room", "random"])
@pytest.mark.parametrize("timeout", [None, 4.0])
def test_parts_add_up(policy: str, timeout: float | None) -> None:
    clients = {} if timeout is None else {"timeout_seconds": timeout}
    result = simulate(contended_scenario(clients=clients), policy, 3)
    total = np.sum([result.parts_ps[part] for part in PARTS], axis=0)
    assert np.abs(total / PS_PER_SECOND - (result.finished - result.arrival)).max() < 1e-9  # columns are floats
    assert all((column >= 0).all() for column in result.parts_ps.values())
    assert (result.parts_ps["lost"].sum() > 0) == bool((~result.completed).any() and timeout)
    preempted = result.preemptions > 0
    assert (result.parts_ps["recompute"][~preempted] == 0).all()
    assert (result.parts_ps["recompute"][preempted & result.completed] > 0).all()


def test_one_request_alone(tmp_path: Path) -> None:
    parts = simulate(by_hand(tmp_path), "random", 1).mean_parts
    assert parts == {
        "held": 0.0,
        "network": pytest.approx(0.002),
        "queued": pytest.approx(0.002),
        "prefill": pytest.approx(0.010),
        "decode": pytest.approx(0.020),
        "recompute": 0.0,
        "lost": 0.0,
    }
