"""A reference that no gateway could run: it is told the true length of every answer.

Shortest first, by KV memory x time: a request of ``p`` prompt and ``o`` output tokens holds about ``o * (p + o / 2)``
token-steps, which is what a worker short of KV runs out of. (Where memory is ample nothing is held, and the order does
not matter.) A worker may take a request if, with every length known and one token a step, what is in flight and the
request never need more KV together than there is; of those, the one with the least KV in flight takes it.

It fills the routing and the scheduling slot, and it is a reference, not an optimum: a policy may beat it. It is made
for one run by ``clairvoyant_policies``, from the run's own requests; it has no ``create``, and imports what no policy
may, so that the loader, and so a gateway, refuses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from designer.simulator.requests import request_ids
from designer.simulator.workload import RequestColumns
from gateway.core.policy_set import PolicySet
from policies.contract import Candidate, Dispatched, Finished, FirstToken, Pool, Request, Worker

CLAIRVOYANT = "clairvoyant"
_SPARE = 0.02
"""Of the blocks, kept free: progress in flight is known to within a step or two, and the engine has a watermark."""
_MINE = frozenset({"num_inflight_tokens", "num_inflight_prompt_tokens"})


class _InFlight:
    """A request at a worker: its true lengths, and since when it makes tokens."""

    __slots__ = ("first_token", "num_output_tokens", "num_prompt_tokens")

    def __init__(self, num_prompt_tokens: int, num_output_tokens: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.num_output_tokens = num_output_tokens
        self.first_token = math.inf


class Clairvoyant:
    """``truths``: (prompt, output) tokens by request id."""

    def __init__(self, truths: Mapping[str, tuple[int, int]]) -> None:
        self._truths = truths
        self._in_flight: dict[str, dict[str, _InFlight]] = {}

    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> float:
        prompt, output = self._truths[request.request_id]
        return output * (prompt + output / 2)

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        truth = self._truths[request.request_id]
        best, least = None, math.inf
        for candidate in candidates:
            now = self._progress(candidate.worker, pool.now)
            occupied = sum(length for length, _ in now) / (candidate.worker.kv_capacity_tokens or math.inf)
            load = (occupied or 0.0) + len(now) * 1e-6
            if load < least and _fits([*now, truth], candidate.worker):
                best, least = candidate, load
        return best

    def observe(self, event: Dispatched | FirstToken | Finished) -> None:
        there = self._in_flight.setdefault(event.worker_id, {})
        match event:
            case Dispatched():
                there[event.request_id] = _InFlight(*self._truths[event.request_id])
            case FirstToken():
                there[event.request_id].first_token = event.time
            case Finished():
                there.pop(event.request_id, None)

    def _progress(self, worker: Worker, now: float) -> list[tuple[int, int]]:
        """(tokens by now, tokens still to come) of what is in flight: the worker's tokens, shared out by time."""
        there = self._in_flight.get(worker.worker_id, {}).values()
        made = worker.num_inflight_tokens - worker.num_inflight_prompt_tokens
        seconds = sum(max(0.0, now - request.first_token) for request in there)
        rate = made / seconds if seconds > 0 else 0.0
        progress = []
        for request in there:
            done = min(int(rate * max(0.0, now - request.first_token)), request.num_output_tokens - 1)
            progress.append((request.num_prompt_tokens + done, request.num_output_tokens - done))
        return progress


def _fits(requests: Sequence[tuple[int, int]], worker: Worker) -> bool:
    """Whether requests of (tokens by now, tokens to come) never outgrow the worker, each making a token a step.

    The most is needed just before one of them ends: when those that have ``left`` tokens or more to come have made
    ``left`` each. Half a block for each stands for the last, partly filled one.
    """
    if worker.kv_capacity_tokens == 0 or len(requests) == 1:
        return True
    if 0 < worker.max_num_seqs < len(requests):
        return False
    by_left = sorted(requests, key=lambda request: -request[1])
    lengths = accumulate(length for length, _ in by_left)
    half = worker.block_size / 2
    most = max(
        total + count * (left + half)
        for count, (total, (_, left)) in enumerate(zip(lengths, by_left, strict=True), start=1)
    )
    return most <= worker.kv_capacity_tokens * (1 - _SPARE)


def clairvoyant_policies(columns: RequestColumns) -> Callable[[], PolicySet]:
    """A fresh set for one run of exactly these requests."""
    lengths = zip(columns.num_prompt_tokens.tolist(), columns.num_output_tokens.tolist(), strict=True)
    truths = dict(zip(request_ids(len(columns)), lengths, strict=True))

    def make() -> PolicySet:
        policy = Clairvoyant(truths)
        return PolicySet(0, routing=policy, scheduling=policy, observers=(policy,), reads=_MINE)

    return make
