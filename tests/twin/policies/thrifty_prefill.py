"""Few prompt tokens a step while much decodes or little is free; the longest context is preempted."""

from __future__ import annotations

from policies.contract import BatchEngine, BatchRequest, Rng


class ThriftyPrefill:
    def waiting_key(self, request: BatchRequest) -> float:
        return request.arrival_time - 20.0e-9 * request.priority

    def victim_key(self, request: BatchRequest) -> float:
        return request.num_prompt_tokens + request.num_output_tokens

    def prefill_budget(self, engine: BatchEngine) -> int:
        if engine.num_waiting > 8 or engine.num_free_blocks * 4 < engine.num_blocks:
            return 24
        return 0 if engine.num_running > 9 else 100


def create(rng: Rng) -> ThriftyPrefill:
    return ThriftyPrefill()
