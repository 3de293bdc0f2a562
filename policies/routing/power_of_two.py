"""Two workers drawn at random, the one with fewer requests in flight takes it.

Source: Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12, 2001. With one choice
the fullest of n workers holds about log n / log log n requests more than the mean, with two about log log n. Where
several gateways share the workers and see only their own requests, it herds less than the exact minimum does.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class PowerOfTwo:
    def __init__(self, rng: Rng) -> None:
        self._rng = rng

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        drawn = self._rng.sample(candidates, min(2, len(candidates)))
        return min(drawn, key=lambda candidate: candidate.worker.num_inflight_requests)


def create(rng: Rng) -> PowerOfTwo:
    return PowerOfTwo(rng)
