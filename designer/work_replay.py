"""What a child of the simulation host does beside a replay and before a promotion, with the winner in another process.

The comparator runs beside the simulation, behind the fence: it is what one has in use, or plain rules with tuned
constants. The winner is asked call by call, as for every figure that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from designer import work_simulation
from designer.export import as_sent
from designer.lockstep import RemotePolicy
from designer.simulator.draws import Floats
from designer.simulator.fleet import plan_workers
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from designer.subject import Subject, load_subject, subject_from_json
from designer.warm import Fence, Job, Work
from gateway.core.policy_set import PolicySet

prepare = work_simulation.prepare


class WrongAnswersError(Exception):
    """Answers of the policy had to be replaced, so what came out is not its own doing."""


def replayed(job: Job, fence: Fence, fds: list[int]) -> dict[str, Any]:
    """The requests of a trace as the load generator sends them."""
    scenario, seed = Scenario.model_validate_json(job["scenario"]), int(job["seed"])
    columns, plans = as_sent(draw_workload(scenario, seed)), plan_workers(scenario)
    subject = subject_from_json(job["subject"])
    fence()
    result = simulate(scenario, lambda: _remote(fds, subject), seed, workload=columns, plans=plans)
    _require_own_answers(result)
    done = result.completed
    return {
        "num_requests": len(result),
        "ttfts": result.ttfts[done].tolist(),
        "response_times": result.response_times[done].tolist(),
    }


def swapped(job: Job, fence: Fence, fds: list[int]) -> dict[str, Any]:
    """The comparator all along, with the subject swapped in at ``moment``, or the subject all along, by ``way``."""
    scenario, seed = Scenario.model_validate_json(job["scenario"]), int(job["seed"])
    columns, plans = draw_workload(scenario, seed), plan_workers(scenario)
    comparator, subject = subject_from_json(job["comparator"]), subject_from_json(job["subject"])
    fence()

    def before() -> PolicySet:
        return PolicySet.of(load_subject(comparator, seed), generation=0)

    def swapped_in() -> PolicySet:
        return replace(_remote(fds, subject), generation=1)

    way = job["way"]
    swaps = [(float(job["moment"]), swapped_in)] if way == "swap" else []
    first = swapped_in if way == "winner" else before
    result = simulate(scenario, first, seed, workload=columns, plans=plans, swaps=swaps)
    _require_own_answers(result)
    return {
        "moment": busiest_moment(result.arrival, result.finished),
        "arrivals": result.arrival.tolist(),
        "ends": result.finished.tolist(),
        "response_times": result.response_times.tolist(),
    }


def busiest_moment(arrivals: Floats, ends: Floats) -> float:
    """The first moment at which most requests are open, while a third of them is still to come: halfway to the next
    event. Without that, under a lasting overload, it would be the last arrival, with nothing left to decide."""
    times = np.concatenate([arrivals, ends])
    changes = np.concatenate([np.ones(len(arrivals)), -np.ones(len(ends))])
    order = np.lexsort((changes, times))
    early = int(np.searchsorted(times[order], np.quantile(arrivals, 2.0 / 3.0), side="right"))
    most = int(np.argmax(np.cumsum(changes[order])[:early]))
    after = times[order[min(most + 1, len(order) - 1)]]
    return float((times[order[most]] + after) / 2.0)


def _remote(fds: list[int], subject: Subject) -> PolicySet:
    return RemotePolicy(fds, subject).policy_set()


def _require_own_answers(result: SimulationResult) -> None:
    failures = result.summary()["num_policy_failures"]
    if failures:
        raise WrongAnswersError(f"{failures} of its answers were wrong and had to be replaced")


WORK: Mapping[str, Work] = {**work_simulation.WORK, "replayed": replayed, "swapped": swapped}
