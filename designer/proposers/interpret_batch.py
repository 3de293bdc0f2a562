"""What a batch program decides, straight from its meaning: what emitted policies are tested against."""

from __future__ import annotations

from designer.proposers.batching import BATCH_QUANTITIES, BatchProgram, Order
from policies.contract import BatchEngine, BatchRequest


class Batcher:
    """The rules of a program; it remembers nothing."""

    def __init__(self, program: BatchProgram) -> None:
        self._program = program
        self._limits = {constant.kind: constant.value for constant in program.limits}

    def waiting_key(self, request: BatchRequest) -> tuple[float, ...]:
        """Smallest is admitted first."""
        first = (-request.priority,) if self._program.waiting.priority_first else ()
        return (*first, *_sum(self._program.waiting, request), request.arrival_time)

    def victim_key(self, request: BatchRequest) -> tuple[float, ...]:
        """Largest is preempted first."""
        first = (-request.priority,) if self._program.victim.priority_first else ()
        return (*first, *_sum(self._program.victim, request), request.arrival_time)

    def prefill_budget(self, engine: BatchEngine) -> int:
        """Prompt tokens of the next step."""
        most = engine.max_num_batched_tokens
        return max(1, int(self._limits["prefill_share"] * most)) if self._shares(engine) else most

    def _shares(self, engine: BatchEngine) -> bool:
        match self._program.budget:
            case "full":
                return False
            case "share":
                return True
            case "share_when_busy":
                return engine.num_running >= self._limits["busy_requests"]
            case "share_when_scarce":
                return engine.num_free_blocks < self._limits["scarce_share"] * engine.num_blocks


def _sum(order: Order, request: BatchRequest) -> tuple[float, ...]:
    if not order.terms:
        return ()
    total: float = 0
    for term in order.terms:
        value = BATCH_QUANTITIES[term.name].read(request)
        weighed = value if term.weight is None else term.weight.value * value
        total = total - weighed if term.less else total + weighed
    return (total,)
