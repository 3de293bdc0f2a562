"""In the engine, the shortest prompt is admitted first, aged; the last to arrive is preempted first.

Waiting requests are ordered by prompt tokens less ``ageing`` tokens for every second waited, so a long prompt is
passed over for ``tokens / ageing`` seconds at most. ``prefill_share`` below 1 leaves the rest of every step to
requests that decode: smaller chunks, shorter steps, slower prefill.

Source: shortest processing time first (Smith, "Various optimizers for single-stage production", 1956), by the one
length that is known; smaller chunks as in Sarathi-Serve (Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

from policies.contract import BatchEngine, BatchRequest, Rng


class ShortestPrompt:
    def __init__(self, ageing: float, prefill_share: float) -> None:
        self._ageing = ageing
        self._prefill_share = prefill_share

    def waiting_key(self, request: BatchRequest) -> float:
        return request.num_prompt_tokens + self._ageing * request.arrival_time

    def victim_key(self, request: BatchRequest) -> float:
        return request.arrival_time

    def prefill_budget(self, engine: BatchEngine) -> int:
        return max(1, int(self._prefill_share * engine.max_num_batched_tokens))


def create(rng: Rng, *, ageing: float = 10.0, prefill_share: float = 1.0) -> ShortestPrompt:
    """``ageing``: tokens a second, at least 0. ``prefill_share``: of a step's tokens, above 0, at most 1."""
    if ageing < 0 or not 0 < prefill_share <= 1:
        raise ValueError("ageing must be at least 0, prefill_share above 0 and at most 1")
    return ShortestPrompt(ageing, prefill_share)
