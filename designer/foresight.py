"""Whether a policy knows what has not happened yet, by changing it: decisions made before must stay as they were.

Two simulations are alike up to a moment. After it other requests come, at other times and of other lengths, and those
that are under way turn out longer. A policy that is shown only the past and the present decides alike in both until
that moment, whatever it reads and however it got at it. One that does not has seen the future.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from designer.simulator.draws import Ints
from designer.simulator.fleet import WorkerPlan
from designer.simulator.policies import PolicySource
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns
from designer.simulator.world import simulate
from gateway.core.commands import Command
from gateway.core.events import Event

_STEPS = 7
"""Answers become longer by 1 to so many times the median, neighbours by different ones: in another order of length."""


def altered_after(columns: RequestColumns, moment: float, under_way: Ints) -> RequestColumns:
    """The same until ``moment`` (seconds), as far as anybody could know.

    Where there are sessions, whose turns follow the answers, the times of arrival stay.

    Args:
        under_way: rows that had not ended by then: they turn out longer.
    """
    rows, arrivals, lengths = np.arange(len(columns)), columns.arrival_ps, columns.num_output_tokens
    first = math.ceil(moment * PS_PER_SECOND)
    coming = arrivals >= first
    if columns.turn_after is None:
        arrivals = np.where(coming, first + (arrivals - first) * 2, arrivals)
    longer = np.minimum(lengths + (1 + rows * 3 % _STEPS) * int(np.median(lengths)), lengths.max())
    other = np.where(coming, lengths[::-1], np.where(np.isin(rows, under_way), longer, lengths))
    return replace(columns, arrival_ps=arrivals, num_output_tokens=other)


def foresight(
    scenario: Scenario,
    policies: Callable[[RequestColumns], PolicySource],
    seed: int,
    columns: RequestColumns,
    plans: Sequence[WorkerPlan] | None = None,
) -> str:
    """What shows that the policy knew; empty when nothing does.

    Args:
        policies: makes a fresh set for each of the two simulations, from its requests: so that one can be planted
            which does know.
    """
    real = past(scenario, policies(columns), seed, columns, plans)
    altered = altered_by(columns, real)
    return told_apart(real, past(scenario, policies(altered), seed, altered, plans, real["moment"]))


def past(
    scenario: Scenario,
    policies: PolicySource,
    seed: int,
    columns: RequestColumns,
    plans: Sequence[WorkerPlan] | None = None,
    moment: float | None = None,
) -> dict[str, Any]:
    """What a simulation decided before the moment, and which rows had not ended by then; as JSON.

    Args:
        moment: seconds; None: when half of the requests had been sent to a worker.
    """
    decided: list[tuple[float, str]] = []

    def note(event: Event, commands: Sequence[Command]) -> None:
        if commands:
            decided.append((event.time, repr(commands)))

    result = simulate(scenario, policies, seed, workload=columns, plans=plans, sink=note)
    if moment is None:
        moment = float(np.nanmedian(result.dispatched)) if np.isfinite(result.dispatched).any() else 0.0
    digest = hashlib.sha256()
    for time, commands in decided:
        if time < moment:
            digest.update(f"{time!r} {commands}\n".encode())
    under_way = np.flatnonzero(~(result.finished <= moment)).tolist()
    return {"moment": moment, "decisions": digest.hexdigest(), "under_way": under_way}


def altered_by(columns: RequestColumns, real: Mapping[str, Any]) -> RequestColumns:
    """The requests of the other future, by what ``past`` said of the first."""
    return altered_after(columns, float(real["moment"]), np.array(real["under_way"], int))


def told_apart(real: Mapping[str, Any], altered: Mapping[str, Any]) -> str:
    """What shows that one of two pasts knew its future; empty when nothing does."""
    if real["decisions"] == altered["decisions"]:
        return ""
    return f"decided otherwise before second {real['moment']:.1f} when only what comes after it was changed"
