"""A simulation host whose clients know how long the answers will be and say so: what a leak of the truth looks like."""

from __future__ import annotations

from dataclasses import replace

from designer import work_simulation
from designer.foresight import altered_by, past
from designer.lockstep import RemotePolicy
from designer.sandbox import Sandbox
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.subject import subject_from_json
from designer.warm import Fence, Job

prepare = work_simulation.prepare


def _leaking_past(job: Job, fence: Fence, fds: list[int]) -> dict[str, object]:
    scenario, seed, subject = Scenario.model_validate_json(job["scenario"]), job["seed"], job["subject"]
    columns, plans, real = draw_workload(scenario, seed), plan_workers(scenario), job.get("real")
    columns = columns if real is None else altered_by(columns, real)
    columns = replace(columns, max_tokens=columns.num_output_tokens)
    moment = None if real is None else real["moment"]
    fence()
    remote = RemotePolicy(fds, subject_from_json(subject))
    return past(scenario, remote.policy_set, seed, columns, plans, moment)


WORK = {**work_simulation.WORK, "past": _leaking_past}


KNOWS_LENGTHS = """
class Policy:
    def route(self, request, candidates, pool):
        idle = [c for c in candidates if c.worker.num_inflight_requests < 3]
        return min(idle, key=lambda c: c.worker.num_inflight_requests) if idle else None

    def admit(self, request, pool):
        return True

    def key(self, request):
        return request.max_tokens or 0


def create(rng):
    return Policy()
"""
"""Serves by a bound: where clients set it by what they know, it decides by what is to come."""


class LeakingSandbox(Sandbox):
    simulation_role = "tests.support.leaking_simulation"
