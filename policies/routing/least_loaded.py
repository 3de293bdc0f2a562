"""Fewest requests in flight, by this gateway's own exact count; ties go to the worker that waited longest for a turn.

Source: the "least-loaded queue" (LLQ, pending + active requests) of Hamadanian et al., "Glia", arXiv 2510.27176,
which is join-the-shortest-queue: Winston, "Optimality of the shortest line discipline", J. Appl. Prob. 14, 1977.
The count is exact at once, so a burst never herds onto one worker. Ties rotate (the scan starts after the last
choice), so a worker that fails fast and looks idle gets no more than its turn, and the first gets no more than others.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class LeastLoaded:
    def __init__(self) -> None:
        self._last = ""

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        fewest = min(candidate.worker.num_inflight_requests for candidate in candidates)
        tied = [candidate for candidate in candidates if candidate.worker.num_inflight_requests == fewest]
        chosen = tied[self._after_last(tied, candidates)]
        self._last = chosen.worker.worker_id
        return chosen

    def _after_last(self, tied: Sequence[Candidate], candidates: Sequence[Candidate]) -> int:
        """Index into ``tied`` of the first that stands after the last choice, going round."""
        passed = False
        skipped = 0
        for candidate in candidates:
            if skipped < len(tied) and candidate is tied[skipped]:
                if passed:
                    return skipped
                skipped += 1
            passed = passed or candidate.worker.worker_id == self._last
        return 0


def create(rng: Rng) -> LeastLoaded:
    return LeastLoaded()
