"""What an evaluation compares, as one number for a simulation: lower is better, and always above 0."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from designer.simulator.draws import Floats
from designer.simulator.scenario import Objective


class Measured(Protocol):
    """The part of a simulation's result that objectives read."""

    @property
    def objective(self) -> Objective: ...
    @property
    def response_times(self) -> Floats: ...
    @property
    def ttfts(self) -> Floats: ...
    @property
    def met_slo(self) -> NDArray[np.bool_]: ...
    @property
    def goodput(self) -> float: ...
    @property
    def worker_seconds(self) -> float: ...


def objective_value(result: Measured) -> float:
    """Of the scenario's metric; see ``Objective``."""
    objective = result.objective
    if objective.metric == "weighted":
        return sum(weight * value_of(metric, result) for metric, weight in objective.weights.items())
    return value_of(objective.metric, result)


def value_of(metric: str, result: Measured) -> float:
    """One metric by its name."""
    if metric == "worker_seconds":
        return result.worker_seconds * overrun(result)
    if metric == "seconds_per_good_request":
        return 1.0 / max(result.goodput, 1e-9)
    times = result.ttfts if metric.endswith("ttft") else result.response_times
    return float(times.mean() if metric.startswith("mean") else np.percentile(times, 99))


def overrun(result: Measured) -> float:
    """How many times more requests missed their promises than may; 1 while no more did.

    So twice the allowed misses cost as much as twice the workers: never worth it, and still a slope to search on.
    """
    missed = 1.0 - float(result.met_slo.mean())
    return max(1.0, missed / (1.0 - result.objective.slo_share))
