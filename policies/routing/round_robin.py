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
        self._position = -1
        self._last = ""

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        chosen = candidates[self._next(candidates)]
        self._last = chosen.worker.worker_id
        return chosen

    def _next(self, candidates: Sequence[Candidate]) -> int:
        """One after the last worker used; the place it stood in when it is gone."""
        here = self._position
        if here >= len(candidates) or candidates[here].worker.worker_id != self._last:
            places = [n for n, candidate in enumerate(candidates) if candidate.worker.worker_id == self._last]
            here = places[0] if places else here - 1
        self._position = (here + 1) % len(candidates)
        return self._position


def create(rng: Rng) -> RoundRobin:
    return RoundRobin()
