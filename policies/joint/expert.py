"""The human expert's rule: shortest prompt first, and only to workers whose KV cache is not committed already.

A worker's commitment is the blocks its requests hold or are owed: prompt and output so far of each. The gateway knows
the tokens of a worker, not of each request, so half a block is counted for each request's last, partly filled one. A
worker may take a request while at most ``limit`` of its blocks are committed, the request itself not counted; among
those the one with the fewest in flight takes it, ties at random. With none, the request is held. A worker of
unknown capacity is never full.

Source: the expert's policy of Hamadanian et al., "Glia", arXiv 2510.27176 (public artifact mit-nms/Engram):
2,100 of 2,240 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng, Worker


class Expert:
    def __init__(self, rng: Rng, limit: float, ageing: float) -> None:
        self._rng = rng
        self._limit = limit
        self._ageing = ageing

    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> tuple[float, float]:
        return (request.num_prompt_tokens + self._ageing * request.arrival_time, request.arrival_time)

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        open_ones = [candidate for candidate in candidates if self._is_open(candidate.worker)]
        if not open_ones:
            return None
        fewest = min(candidate.worker.num_inflight_requests for candidate in open_ones)
        return self._rng.choice(
            [candidate for candidate in open_ones if candidate.worker.num_inflight_requests == fewest]
        )

    def may_go(self, request: Request, worker: Worker) -> bool:
        return self._is_open(worker)

    def _is_open(self, worker: Worker) -> bool:
        committed = worker.num_inflight_tokens + worker.num_inflight_requests * worker.block_size / 2
        return worker.kv_capacity_tokens == 0 or committed <= self._limit * worker.kv_capacity_tokens


def create(rng: Rng, *, limit: float = 2100 / 2240, ageing: float = 0.0) -> Expert:
    """``limit``: fraction of the blocks, above 0. ``ageing``: tokens a second held is worth; the paper has none."""
    if limit <= 0 or ageing < 0:
        raise ValueError("limit must be above 0 and ageing at least 0")
    return Expert(rng, limit, ageing)
