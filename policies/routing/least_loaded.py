"""Fewest requests in flight, by this gateway's own exact count; ties take turns.

Source: the "least-loaded queue" (LLQ, pending + active requests) of Hamadanian et al., "Glia", arXiv 2510.27176,
which is join-the-shortest-queue: Winston, "Optimality of the shortest line discipline", J. Appl. Prob. 14, 1977.
The count is exact at once, so a burst never herds onto one worker. Ties go to the first at or after a starting
point that moves by one with every decision, so no worker gets more for being first in the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class LeastLoaded:
    def __init__(self) -> None:
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        start = self._turn % len(candidates)
        self._turn = start + 1
        best, fewest = None, math.inf
        for candidate in (*candidates[start:], *candidates[:start]):
            num_requests = candidate.worker.num_inflight_requests
            if num_requests < fewest:
                best, fewest = candidate, num_requests
        return best


def create(rng: Rng) -> LeastLoaded:
    return LeastLoaded()
