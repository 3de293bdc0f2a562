"""As vLLM would: first come, first served, the last is preempted; only that decoding is served before prefill."""

from __future__ import annotations

from policies.contract import BatchEngine, BatchRequest, Rng


class NoOpinion:
    def waiting_key(self, request: BatchRequest) -> float:
        return request.arrival_time

    def victim_key(self, request: BatchRequest) -> float:
        return 0.0

    def prefill_budget(self, engine: BatchEngine) -> int:
        return engine.max_num_batched_tokens


def create(rng: Rng) -> NoOpinion:
    return NoOpinion()
