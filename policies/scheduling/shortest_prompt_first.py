"""Shortest prompt first, with linear ageing so that a long prompt is not starved; nothing is shed.

A request's rank is its prompt tokens less ``ageing`` tokens for every second it has been held. The order of two
requests never changes while both wait, so the key needs no clock: ``tokens + ageing * arrival_time``.

Source: shortest job first (Smith, "Various optimizers for single-stage production", Naval Research Logistics 3,
1956) on the one length known in advance, as in head-room admission (Hamadanian et al., "Glia", arXiv 2510.27176);
linear ageing as in Kleinrock's delay-dependent priorities ("A delay dependent queue discipline", 1964).
"""

from __future__ import annotations

from policies.contract import Pool, Request, Rng


class ShortestPromptFirst:
    def __init__(self, ageing: float) -> None:
        self._ageing = ageing

    def admit(self, request: Request, pool: Pool) -> bool:
        return True

    def key(self, request: Request) -> tuple[float, float]:
        return (request.num_prompt_tokens + self._ageing * request.arrival_time, request.arrival_time)


def create(rng: Rng, *, ageing: float = 1.0) -> ShortestPromptFirst:
    """``ageing``: tokens a second of waiting is worth; 0 is the pure order, which starves long prompts under load."""
    if ageing < 0:
        raise ValueError(f"ageing must be at least 0, not {ageing}")
    return ShortestPromptFirst(ageing)
