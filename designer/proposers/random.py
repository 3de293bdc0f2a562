"""The control: independent samples of the same grammar. A search that does not beat it has found nothing.

At equal budget, independent sampling matches or beats much elaborate evolution (arXiv 2602.16805), so every report
carries it.
"""

from __future__ import annotations

import random
from collections.abc import Set

from designer.proposers.emit import emit
from designer.proposers.grammar import to_json
from designer.proposers.protocol import History, Proposal
from designer.proposers.sampling import Sampler
from designer.proposers.simplify import simplified
from designer.proposers.vocabulary import QUANTITIES
from designer.proposers.words import why


class RandomProposer:
    name = "random"

    def __init__(self, seed: int, offered: Set[str] = frozenset(QUANTITIES)) -> None:
        self._seed = seed
        self._offered = offered

    def propose(self, history: History) -> Proposal:
        rng = random.Random(f"random/{self._seed}/{len(history.outcomes)}")
        program = simplified(Sampler(rng, self._offered).program())
        return Proposal(
            source=emit(program),
            hypothesis=why(program),
            predicted_effect=None,
            change="drawn at random",
            program=to_json(program),
        )
