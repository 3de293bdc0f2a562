"""What no real system does, so that a simulation can tell what something costs: by leaving just that out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from designer.simulator.workload_tables import Table
from gateway.core.policy_set import PolicySet
from gateway.mockworker.profile import WorkerProfile
from policies.contract import Candidate, Pool, Request, RoutingPolicy


class Counterfactual(Table):
    """Of a scenario; the default changes nothing."""

    holding: bool = True
    """False: where an evaluated policy would hold a request, it goes to the worker with the fewest in flight."""
    free_prefill: bool = False
    """The tokens of a step cost no arithmetic and no attention of prefill, and any prompt fits in one step: a prefill
    takes what a step takes at the least. Decoding keeps its floor and its attention; where a profile's arithmetic shows
    beside the floor in steps that only decode, that is gone as well."""


class NeverHolding:
    """A routing policy whose wish to hold is not granted."""

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy
        self._turn = 0
        self._last: dict[str, int] = {}

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate:
        chosen = self._policy.route(request, candidates, pool)
        if chosen is None:
            chosen = min(candidates, key=self._load)
        self._turn += 1
        self._last[chosen.worker.worker_id] = self._turn
        return chosen

    def _load(self, candidate: Candidate) -> tuple[int, int]:
        """As the gateway's built-in rule: ties to the one that has waited longest."""
        worker = candidate.worker
        return worker.num_inflight_requests, self._last.get(worker.worker_id, 0)


def changed_set(policy_set: PolicySet, counterfactual: Counterfactual) -> PolicySet:
    """The set as it decides there."""
    if counterfactual.holding or policy_set.routing is None:
        return policy_set
    return replace(policy_set, routing=NeverHolding(policy_set.routing))


def changed_profile(profile: WorkerProfile, counterfactual: Counterfactual) -> WorkerProfile:
    """The worker as fast as it is there."""
    if not counterfactual.free_prefill:
        return profile
    engine = profile.engine
    longest = max(engine.max_num_batched_tokens, engine.num_gpu_blocks * engine.block_size)
    engine = replace(engine, max_num_batched_tokens=longest, long_prefill_token_threshold=0)
    return replace(profile, engine=engine, token_ps=0, prefill_context_ps=0)
