"""A worker drawn uniformly, whatever it holds.

Source: the baseline "random" of Hamadanian et al., "Glia", arXiv 2510.27176; the single-choice process that
Mitzenmacher, IEEE TPDS 12, 2001, compares two choices with.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.contract import Candidate, Pool, Request, Rng


class Random:
    def __init__(self, rng: Rng) -> None:
        self._rng = rng

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        return self._rng.choice(candidates)


def create(rng: Rng) -> Random:
    return Random(rng)
