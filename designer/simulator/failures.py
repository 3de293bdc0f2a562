"""When which worker breaks down: drawn before anything is decided, by seed and entry, so no decision shifts it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from designer.simulator import draws
from designer.simulator.scenario import Failure, Scenario
from gateway.mockworker.engine import PS_PER_SECOND


class Breakdown(NamedTuple):
    """One worker stops working."""

    time: int
    """Picoseconds."""
    failure: Failure
    share: float
    """In [0, 1): which of the workers there are, when the scenario names none."""


def draw_failures(scenario: Scenario, seed: int, last_arrival_ps: int) -> list[Breakdown]:
    """Every breakdown of a run, in order of time; none of those at a rate starts after the last arrival."""
    breakdowns: list[Breakdown] = []
    for number, failure in enumerate(scenario.failures):
        times = _times(failure, seed, number, last_arrival_ps / PS_PER_SECOND)
        shares = draws.uniforms(seed, f"failure worker {number}", len(times)).tolist()
        rows = zip(times, shares, strict=True)
        breakdowns += [Breakdown(round(time * PS_PER_SECOND), failure, share) for time, share in rows]
    return sorted(breakdowns, key=lambda one: one.time)


def _times(failure: Failure, seed: int, number: int, end: float) -> list[float]:
    if failure.at_seconds is not None:
        return [failure.at_seconds]
    mean = failure.mean_seconds_between or 0.0
    count = 16
    while True:  # a longer draw begins with the shorter one, so doubling changes nothing
        times = np.cumsum(mean * draws.exponentials(seed, f"failure {number}", count))
        if times[-1] > end:
            within: list[float] = times[times <= end].tolist()
            return within
        count *= 2
