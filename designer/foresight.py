"""Whether a policy knows what has not happened yet, by changing it: decisions made before must stay as they were.

Two simulations are alike up to a moment. After it other requests come, at other times and of other lengths, and those
that are under way turn out longer. A policy that is shown only the past and the present decides alike in both until
that moment, whatever it reads and however it got at it. One that does not has seen the future.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from designer.simulator.draws import Floats
from designer.simulator.fleet import WorkerPlan
from designer.simulator.policies import PolicySource
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns
from designer.simulator.world import simulate

_LONGER = 3
"""How many times as long answers become."""


def altered_after(columns: RequestColumns, result: SimulationResult, row: int) -> RequestColumns:
    """The same until ``row`` arrives, as far as anybody could know.

    Where there are sessions, whose turns follow the answers, the times of arrival stay.

    Args:
        result: of a run on ``columns``: what had not ended by then turns out longer.
    """
    coming = np.arange(len(columns)) >= row
    first, arrivals, lengths = columns.arrival_ps[row], columns.arrival_ps, columns.num_output_tokens
    under_way = ~coming & (result.finished > first / PS_PER_SECOND)
    if columns.turn_after is None:
        arrivals = np.where(coming, first + (arrivals - first) * 2, arrivals)
    longer = np.clip(lengths * _LONGER, 1, int(lengths.max()))
    other = np.where(under_way, longer, np.where(coming, lengths[::-1], lengths))
    return replace(columns, arrival_ps=arrivals, num_output_tokens=other)


def foresight(
    scenario: Scenario,
    policies: Callable[[RequestColumns], PolicySource],
    seed: int,
    columns: RequestColumns,
    plans: Sequence[WorkerPlan] | None = None,
    at: float = 0.5,
) -> str:
    """What shows that the policy knew; empty when nothing does.

    Args:
        policies: makes a fresh set for each of the two simulations, from its requests: so that one can be planted
            which does know.
        at: the share of requests that stays as it was.
    """
    row = min(len(columns) - 1, max(1, int(at * len(columns))))
    moment = float(columns.arrival_ps[row]) / PS_PER_SECOND
    real = simulate(scenario, policies(columns), seed, workload=columns, plans=plans)
    altered = altered_after(columns, real, row)
    other = simulate(scenario, policies(altered), seed, workload=altered, plans=plans)
    if decisions_before(real, moment, row) == decisions_before(other, moment, row):
        return ""
    return f"decided otherwise before second {moment:.1f} when only what comes after it was changed"


def decisions_before(result: SimulationResult, moment: float, rows: int) -> str:
    """SHA-256 (hex) of where and when the first ``rows`` requests were sent, as far as that was before ``moment``."""
    dispatched: Floats = np.where(result.dispatched < moment, result.dispatched, np.nan)[:rows]
    worker = np.where(np.isnan(dispatched), -1, result.worker[:rows])
    digest = hashlib.sha256(np.ascontiguousarray(dispatched).tobytes())
    digest.update(np.ascontiguousarray(worker).tobytes())
    return digest.hexdigest()
