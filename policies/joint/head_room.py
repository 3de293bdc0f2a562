"""Head-room admission: shortest prompt first, each held until some worker has blocks for it and for its output.

The head of the queue needs ``ceil(prompt * (1 + r) / block)`` blocks. A worker may take it if then at least
``int(blocks * margin)`` stay free of what is committed; of those, the one with least committed takes it, then the one
with fewest in flight, then turns. With none, the head is held and so is all behind it.

Committed is ``alloc + resv``. The paper reads both from the engine: blocks allocated to active requests, and
``ceil(sum of prompt * (1 + r) / block)`` over the pending. A gateway learns that a request became active by its first
token, and knows the tokens of a worker, not the blocks of each request. So here resv is over the requests whose first
token has not been seen, and alloc is ``ceil((prompts + outputs so far of the others) / block)`` plus
``partial_blocks`` for each request in flight, for its last, partly filled block. Prefixes shared between requests
are counted for each: the error is towards caution. Both move with every dispatch and token, never with a scrape.

Beyond the paper, and off with ``oversize=false,ageing=0``: a request that even an empty worker would not admit goes to
the worker with the most free blocks at once, and a held prompt shortens by ``ageing`` tokens a second, so that neither
starves. A worker of unknown capacity always may take a request.

``hold=false`` is for comparison: routing alone, to the worker with least committed, which then never holds.

Source: HRA, Hamadanian et al., "Glia", arXiv 2510.27176; constants as in the reproduction ronyw7/glia-repro.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng, Worker


class HeadRoom:
    def __init__(
        self, r: float, margin: float, oversize: bool, ageing: float, partial_blocks: float, hold: bool
    ) -> None:
        self._growth = 1.0 + r
        self._margin = margin
        self._oversize = oversize
        self._ageing = ageing
        self._partial_blocks = partial_blocks
        self._hold = hold
        self._turn = 0

    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> tuple[float, float]:
        return (request.num_prompt_tokens + self._ageing * request.arrival_time, request.arrival_time)

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        start = self._turn % len(candidates)
        in_turn = [*candidates[start:], *candidates[:start]]
        chosen = self._admissible(request, in_turn) or self._bypass(request, in_turn)
        self._turn = start + (chosen is not None)
        return chosen

    def may_go(self, request: Request, worker: Worker) -> bool:
        """Tokens that a worker makes only take room; what it gives back may be enough."""
        return self._spare(worker) - self._committed(worker) - self._need(request, worker) >= 0

    def _admissible(self, request: Request, candidates: Sequence[Candidate]) -> Candidate | None:
        """The one with least committed, then with fewest in flight, of those with room."""
        best, least, fewest = None, math.inf, math.inf
        for candidate in candidates:
            worker = candidate.worker
            committed, num_requests = self._committed(worker), worker.num_inflight_requests
            if committed > least or (committed == least and num_requests >= fewest):
                continue
            if not self._hold or self._spare(worker) - committed - self._need(request, worker) >= 0:
                best, least, fewest = candidate, committed, num_requests
        return best

    def _bypass(self, request: Request, candidates: Sequence[Candidate]) -> Candidate | None:
        """For what would be held even by empty workers."""
        if not self._oversize or any(
            self._need(request, candidate.worker) <= self._spare(candidate.worker) for candidate in candidates
        ):
            return None
        return max(candidates, key=lambda candidate: self._spare(candidate.worker) - self._committed(candidate.worker))

    def _need(self, request: Request, worker: Worker) -> int:
        return math.ceil(request.num_prompt_tokens * self._growth / worker.block_size)

    def _committed(self, worker: Worker) -> float:
        pending, size = worker.num_inflight_prefill_tokens, worker.block_size
        blocks = -((pending - worker.num_inflight_tokens) // size)
        if pending:
            blocks += math.ceil(pending * self._growth / size)
        return blocks + self._partial_blocks * worker.num_inflight_requests

    def _spare(self, worker: Worker) -> float:
        """The blocks that may be committed."""
        if worker.kv_capacity_tokens == 0:
            return math.inf
        blocks = worker.kv_capacity_tokens // worker.block_size
        return blocks - int(blocks * self._margin)


def create(
    rng: Rng,
    *,
    r: float = 0.6,
    margin: float = 0.03,
    oversize: bool = True,
    ageing: float = 1.0,
    partial_blocks: float = 0.5,
    hold: bool = True,
) -> HeadRoom:
    """``r``: output expected per prompt token, at least 0. ``margin``: fraction of the blocks kept free, 0 to 1.
    ``hold``: false, and a request goes to the worker with least committed, whether there is room or not.
    """
    if not 0 <= margin < 1 or min(r, ageing, partial_blocks) < 0:
        raise ValueError("margin must be at least 0 and below 1; r, ageing and partial_blocks at least 0")
    return HeadRoom(r, margin, oversize, ageing, partial_blocks, hold)
