"""Least KV cache in flight: fewest prompt tokens plus output tokens so far; ties take turns.

Source: "least work" routing, here with resident tokens as the work: Harchol-Balter, Crovella and Murta, "On
choosing a task assignment policy for a distributed server system", JPDC 59, 1999 (least work left). Where prompts
differ a hundredfold, the number of requests says little about the memory they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from policies.contract import Candidate, Pool, Request, Rng


class LeastTokens:
    def __init__(self) -> None:
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        start = self._turn % len(candidates)
        self._turn = start + 1
        in_turn = chain(candidates[start:], candidates[:start])
        return min(in_turn, key=lambda candidate: candidate.worker.num_inflight_tokens)


def create(rng: Rng) -> LeastTokens:
    return LeastTokens()
