"""The priced bound: by hand where it can be worked out, and tighter than each alone where a cluster is full.

That no policy is below it is tested with the other bounds.
"""

from __future__ import annotations

import numpy as np
import pytest

from designer.simulator.bounds import lower_bound
from designer.simulator.draws import Floats
from designer.simulator.fleet import plan_workers
from designer.simulator.priced_bound import priced_sum
from designer.simulator.scenario import load_scenario
from designer.simulator.workload import draw_workload


def at_once(price: float, lam: float, mu: float) -> Floats:
    """Two requests of ten seconds of a worker each."""
    return np.array([10.0, 10.0]) * (1 + price)


def test_two_that_come_at_once_on_one_worker_by_hand() -> None:
    # The window is 0 … 10, so at price p it is 2 min(10 (1 + p), 10) - 10 p: no more than what each takes alone.
    arrivals, alone = np.zeros(2), np.full(2, 10.0)
    assert priced_sum(arrivals, alone, at_once, num_workers=1) == pytest.approx(20.0)


def test_work_beyond_capacity_must_wait() -> None:
    """A hundred seconds of work come in the first second of a window that the last arrival makes 101 seconds long."""
    arrivals = np.concatenate([np.linspace(0.0, 1.0, 100), [100.0]])
    alone = np.full(101, 1.0)
    full = priced_sum(arrivals, alone, lambda price, lam, mu: alone * (1 + price), num_workers=1)
    # Of 100 jobs of a second on one machine the k-th ends no sooner than k seconds on: 5050 in all.
    assert 1.5 * alone.sum() < full <= 5050 + 1
    assert priced_sum(arrivals, alone, lambda price, lam, mu: alone * (1 + price), num_workers=200) == alone.sum()


def test_nothing_takes_nothing() -> None:
    assert priced_sum(np.zeros(0), np.zeros(0), at_once, 1) == 0.0


def test_on_the_scarce_case_it_is_the_tightest() -> None:
    scenario = load_scenario("glia")
    bound = lower_bound(scenario, draw_workload(scenario, 1), plan_workers(scenario))
    assert bound.mean_response_time == bound.priced > 1.09 * bound.solo
