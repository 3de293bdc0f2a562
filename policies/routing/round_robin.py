"""Each worker in its turn, whatever it holds.

Source: the classic; as the baseline "round robin" of Hamadanian et al., "Glia", arXiv 2510.27176, and the default of
nginx (``ngx_http_upstream_round_robin``, unweighted). The turn belongs to the worker last used, not to a position,
so a worker that comes or goes does not make another be skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class RoundRobin:
    def __init__(self) -> None:
        self._place = 0
        self._last = ""

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        """One after the last worker used; where it stood, when it is gone."""
        place = self._place
        if place < len(candidates) and candidates[place].worker.worker_id == self._last:
            place += 1  # nobody came or went before it
        else:
            ids = [candidate.worker.worker_id for candidate in candidates]
            place = ids.index(self._last) + 1 if self._last in ids else place
        self._place = place % len(candidates)
        chosen = candidates[self._place]
        self._last = chosen.worker.worker_id
        return chosen


def create(rng: Rng) -> RoundRobin:
    return RoundRobin()
