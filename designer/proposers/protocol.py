"""What every proposer does: from the history of a run, one policy module with its hypothesis.

The search owns the budget and the scores; a proposer only writes. The same seed and history give the same proposal.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["proposed", "scored", "failed"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy module and what its author expects of it."""

    source: str
    """The module's text: what is stored, evaluated and promoted, byte for byte."""
    hypothesis: str
    """Why it should be better, in words."""
    predicted_effect: float | None
    """The metric expected, as a ratio to the reference's: 0.8 is a fifth lower. None: no prediction."""
    parents: tuple[str, ...] = ()
    """``candidate_hash`` of the candidates it was made from."""
    change: str = ""
    """What was done to the first parent, as a clause."""
    program: Mapping[str, Any] | None = None
    """The grammar's JSON, for proposers that have it."""

    @property
    def candidate_hash(self) -> str:
        """SHA-256 (hex) of the module's bytes."""
        return hashlib.sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A candidate of this run and what is known of it."""

    proposal: Proposal
    status: Status = "proposed"
    scores: Mapping[int, float] = field(default_factory=dict)
    """The metric by seed; lower is better. Only seeds of the train split are ever shown to a proposer."""
    reason: str = ""
    """Of a failure."""


@dataclass(frozen=True, slots=True)
class History:
    """All a proposer may know."""

    reference: Mapping[int, float]
    """The metric of the reference policy on every train seed."""
    outcomes: Sequence[Outcome] = ()
    """In the order they were proposed, those that wait for their score included."""
    spent: int = 0
    """Of the budget, in simulations of one policy on one seed."""

    _read: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was worked out from the rest: it is asked for once for every candidate, and reads all of them."""

    def incumbent(self) -> Outcome | None:
        """Of the candidates scored on most seeds, the best; None before the first score."""
        if "incumbent" not in self._read:
            self._read["incumbent"] = self._best()
        found: Outcome | None = self._read["incumbent"]
        return found

    def effects(self) -> Sequence[float | None]:
        """The ``effect`` of every outcome, in their order; None of one without a score."""
        if "effects" not in self._read:
            self._read["effects"] = [self.effect(o) if o.status == "scored" else None for o in self.outcomes]
        found: Sequence[float | None] = self._read["effects"]
        return found

    def effect(self, outcome: Outcome) -> float:
        """Estimated mean log-ratio to the reference; below 0 is better.

        Seeds differ in how much there is to win, so a candidate scored on a few of them is compared with the
        incumbent on those seeds, and the difference added to the incumbent's effect on all of its own.
        """
        best = self.incumbent()
        if best is None or best is outcome:
            return log_ratio(outcome.scores, self.reference)
        shared = {seed: score for seed, score in outcome.scores.items() if seed in best.scores}
        if not shared:
            return log_ratio(outcome.scores, self.reference)
        return log_ratio(shared, best.scores) + log_ratio(best.scores, self.reference)

    def _best(self) -> Outcome | None:
        scored = [outcome for outcome in self.outcomes if outcome.status == "scored"]
        if not scored:
            return None
        most = max(len(outcome.scores) for outcome in scored)
        fullest = [outcome for outcome in scored if len(outcome.scores) == most]
        return min(fullest, key=lambda outcome: log_ratio(outcome.scores, self.reference))


class NoProposalError(Exception):
    """A proposer has no candidate to give before it sees the outcomes of those it gave; if there are none, no more."""


class Proposer(Protocol):
    """An author of candidates.

    One that wants outcomes sooner than after a whole batch has an attribute ``batch``: how many it gives at a time.
    """

    @property
    def name(self) -> str: ...

    def propose(self, history: History) -> Proposal:
        """The next candidate; deterministic in the proposer's seed and the history.

        Raises:
            NoProposalError: there is none, for now or for good.
        """
        ...


def log_ratio(scores: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Mean of ``ln(score / other)`` over the seeds both have.

    Raises:
        ValueError: they have none in common.
    """
    shared = sorted(scores.keys() & other.keys())
    if not shared:
        raise ValueError("no seed in common")
    return sum(math.log(scores[seed] / other[seed]) for seed in shared) / len(shared)
