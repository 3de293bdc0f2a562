"""The worker with the least requests in flight times its seconds per output token: fast workers get more.

A worker that has not shown a token yet is taken to be as fast as the fastest that has, so that it is tried. Ties go to
whoever is first in turn. For workers of unlike speed; among like ones it is ``least_loaded`` with some noise.

Source: peak-EWMA balancing as in Finagle and linkerd (load = recent latency x outstanding requests), on the seconds
per token, which do not depend on how long an answer is.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class LatencyWeighted:
    def __init__(self) -> None:
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        known = [c.worker.tpot_ewma for c in candidates if c.worker.tpot_ewma > 0.0]
        fastest = min(known, default=1.0)
        start = self._turn % len(candidates)
        self._turn = start + 1
        in_turn = [*candidates[start:], *candidates[:start]]
        return min(in_turn, key=lambda c: (c.worker.num_inflight_requests + 1) * (c.worker.tpot_ewma or fastest))


def create(rng: Rng) -> LatencyWeighted:
    return LatencyWeighted()
