"""The shortest prompt first; who has made the least is preempted, and comes back before all others."""

from __future__ import annotations

from policies.contract import BatchEngine, BatchRequest, Rng


class ShortestPrompt:
    def waiting_key(self, request: BatchRequest) -> tuple[float, ...]:
        return (-request.num_preemptions, request.num_prompt_tokens)

    def victim_key(self, request: BatchRequest) -> tuple[float, ...]:
        return (-request.num_output_tokens, -request.num_preemptions)

    def prefill_budget(self, engine: BatchEngine) -> int:
        return engine.max_num_batched_tokens


def create(rng: Rng) -> ShortestPrompt:
    return ShortestPrompt()
