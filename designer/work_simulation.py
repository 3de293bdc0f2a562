"""What a child of the simulation host can do: run one simulation, with the policy inside it or in lockstep with it.

Scenario, trace and worker profiles are read before the fence; behind it nothing can be opened.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from designer.foresight import altered_by, foresight, past
from designer.lockstep import RemotePolicy
from designer.simulator.fleet import plan_workers
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario, parse_scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from designer.subject import load_subject, subject_from_json
from designer.warm import Fence, Job, Work
from gateway.core.policy_set import PolicySet
from policies.allowed import ALLOWED_MODULES

_REHEARSAL = {
    "name": "rehearsal",
    "workload": {
        "kind": "synthetic",
        "num_requests": 8,
        "arrivals": {"rate": 4.0},
        "prompt_tokens": {"median": 20.0, "sigma": 1.0, "max": 100},
        "output_tokens": {"median": 10.0, "sigma": 1.0, "max": 100},
    },
    "workers": [{"profile": "a10-llama3-8b", "count": 2}],
}


def prepare() -> None:
    """Import everything, a policy's modules included, and run once what imports late."""
    for module in sorted(ALLOWED_MODULES):
        importlib.import_module(module)
    result = simulate(parse_scenario(_REHEARSAL, Path("rehearsal.toml")), lambda: PolicySet.builtin(), 0)
    result.summary()


def together(job: Job, fence: Fence, fds: list[int]) -> dict[str, Any]:
    """The first tier: policy and simulation in this one process, fast and provisional."""
    subject = subject_from_json(job["subject"])
    loaded: list[Any] = []

    def make() -> PolicySet:
        loaded.extend(load_subject(subject, int(job["seed"])))
        return PolicySet.of(loaded, generation=0)

    result = _simulate(job, fence, make)
    return {**result, "identities": [{"name": p.name, "policy_hash": p.policy_hash} for p in loaded]}


def lockstep(job: Job, fence: Fence, fds: list[int]) -> dict[str, Any]:
    """The second tier: the policy is at the other end of the file descriptors."""
    subject = subject_from_json(job["subject"])
    remote: list[RemotePolicy] = []

    def make() -> PolicySet:
        remote.append(RemotePolicy(fds, subject))
        return remote[0].policy_set()

    return {**_simulate(job, fence, make), "identities": list(remote[0].identities)}


def foretell(job: Job, fence: Fence, fds: list[int]) -> str:
    """Two first-tier simulations with different futures; see ``designer.foresight``."""
    scenario, seed, subject = _scenario(job), int(job["seed"]), subject_from_json(job["subject"])
    columns, plans = draw_workload(scenario, seed), plan_workers(scenario)
    fence()

    def make() -> PolicySet:
        return PolicySet.of(load_subject(subject, seed), generation=0)

    return foresight(scenario, lambda _: make, seed, columns, plans)


def past_apart(job: Job, fence: Fence, fds: list[int]) -> dict[str, Any]:
    """One of two second-tier simulations with different futures; ``real`` is what the first one answered."""
    scenario, seed, subject = _scenario(job), int(job["seed"]), subject_from_json(job["subject"])
    columns, plans, real = draw_workload(scenario, seed), plan_workers(scenario), job.get("real")
    columns = columns if real is None else altered_by(columns, real)
    fence()
    moment = None if real is None else real["moment"]
    return past(scenario, lambda: RemotePolicy(fds, subject).policy_set(), seed, columns, plans, moment)


WORK: Mapping[str, Work] = {
    "together": together,
    "lockstep": lockstep,
    "foresight": foretell,
    "past": past_apart,
}


def _scenario(job: Job) -> Scenario:
    return Scenario.model_validate_json(job["scenario"])


def _simulate(job: Job, fence: Fence, make: Callable[[], PolicySet]) -> dict[str, Any]:
    scenario, seed = _scenario(job), int(job["seed"])
    columns, plans = draw_workload(scenario, seed), plan_workers(scenario)
    fence()
    result = simulate(scenario, make, seed, workload=columns, plans=plans)
    return {
        "score": result.objective_value,
        "summary": result.summary(),
        "decisions": decisions_digest(result),
        "num_requests": len(result),
        **({"columns": result.columns()} if job.get("columns") else {}),
    }


def decisions_digest(result: SimulationResult) -> str:
    """SHA-256 (hex) of what was decided for every request and when, of how each ended, and of the score."""
    digest = hashlib.sha256(repr(result.objective_value).encode())
    for column in (result.dispatched, result.worker, result.num_dispatches, result.outcome, result.finished):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
