"""Fewest requests waiting in the engine, as of each worker's last scrape; ties take turns.

Source: "least outstanding requests" (``lor``) of the Vidur simulator (Agrawal et al., MLSys 2024), the baseline
"least outstanding" of Hamadanian et al., "Glia", arXiv 2510.27176. It counts what the engine has not yet scheduled,
so all workers that keep up tie, and between two scrapes every decision sees the same numbers: without turns a burst
would herd onto the first of them. Kept for comparison; ``least_loaded`` is the better choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from policies.contract import Candidate, Pool, Request, Rng


class LeastWaiting:
    def __init__(self) -> None:
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        start = self._turn % len(candidates)
        self._turn = start + 1
        in_turn = chain(candidates[start:], candidates[:start])
        return min(in_turn, key=lambda candidate: candidate.worker.num_requests_waiting)


def create(rng: Rng) -> LeastWaiting:
    return LeastWaiting()
