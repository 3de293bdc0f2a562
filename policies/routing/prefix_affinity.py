"""The longest believed prefix-cache hit among the workers within a load bound.

A worker is within the bound while, with this request, it holds at most ``(1 + slack)`` times the mean number of
requests in flight, or at most ``free_requests`` (so that affinity survives low load, where the mean is below one),
and its KV cache is not fuller than ``max_kv_cache_usage``. Of those the longest hit wins, then the fewest in flight,
then turns: a miss goes where ``least_loaded`` would send it. At least one worker is always within the first bound,
so no prefix however popular makes a hot spot; what overflows warms a second worker, and only that prefix moves.

Source: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018), the bound as there,
with the believed cache content in the place of the hash ring, as in SGLang (Zheng et al., NeurIPS 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng, Worker


class PrefixAffinity:
    def __init__(self, slack: float, free_requests: int, max_kv_cache_usage: float) -> None:
        self._slack = slack
        self._free_requests = free_requests
        self._max_kv_cache_usage = max_kv_cache_usage
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        start = self._turn % len(candidates)
        self._turn = start + 1
        in_turn = [*candidates[start:], *candidates[:start]]
        bound = self._bound(in_turn)
        within = [candidate for candidate in in_turn if candidate.worker.num_inflight_requests < bound]
        roomy = [candidate for candidate in within if self._has_room(candidate.worker)]
        return max(
            roomy or within,
            key=lambda candidate: (candidate.num_cached_tokens, -candidate.worker.num_inflight_requests),
        )

    def _bound(self, candidates: Sequence[Candidate]) -> int:
        """Requests a worker may hold, this one included. Rounded up, which leaves room on the least loaded."""
        total = sum(candidate.worker.num_inflight_requests for candidate in candidates) + 1
        return max(self._free_requests, math.ceil((1.0 + self._slack) * total / len(candidates)))

    def _has_room(self, worker: Worker) -> bool:
        return worker.kv_cache_usage <= self._max_kv_cache_usage


def create(rng: Rng, *, slack: float = 0.25, free_requests: int = 4, max_kv_cache_usage: float = 0.9) -> PrefixAffinity:
    """``slack``: above the mean, at least 0. ``free_requests``: never over the bound, at least 0. Usage: 0 to 1."""
    if slack < 0 or free_requests < 0 or not 0 <= max_kv_cache_usage <= 1:
        raise ValueError("slack and free_requests must be at least 0, max_kv_cache_usage between 0 and 1")
    return PrefixAffinity(slack, free_requests, max_kv_cache_usage)
