"""The embedded proposer: a typed evolutionary search over policy programs, with no model and no network.

It starts from what anybody would try first and from random samples, then changes and combines what did well.
A program that decides like one already proposed is not proposed again. Constants are tuned by log-normal steps, more
often the more of the budget is gone.

Source: genetic programming with typed trees (Montana, "Strongly typed genetic programming", Evolutionary Computation
3, 1995), parsimony pressure and tournament selection (Koza, 1992).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from designer.proposers.behaviour import signature
from designer.proposers.emit import emit
from designer.proposers.founders import FOUNDERS
from designer.proposers.grammar import Program, from_json, size, to_json
from designer.proposers.protocol import History, Outcome, Proposal
from designer.proposers.sampling import random_program
from designer.proposers.simplify import simplified
from designer.proposers.variation import cross, mutate, tune
from designer.proposers.words import why

_PARSIMONY = 0.002
"""Log-ratio that one node of a program must be worth."""
_SAMPLES_FIRST = 16
"""Candidates of which half are random samples, as long as nothing good is found."""
_SUBSTANTIAL = math.log(0.85)
"""Once a candidate is this much better than the reference, it pays more to improve it than to look elsewhere."""
_TOURNAMENT = 3
_ELITE = 8
_TRIES = 40


@dataclass(frozen=True, slots=True)
class _Parent:
    program: Program
    effect: float
    """Log-ratio to the reference."""
    candidate_hash: str
    """Empty for a founder that was never proposed, as it behaves like the reference."""


class EvolveProposer:
    """``budget_hint``: how many candidates a run is likely to propose; tuning grows towards its end."""

    name = "evolve"

    def __init__(self, seed: int, budget_hint: int = 60) -> None:
        self._seed = seed
        self._budget_hint = budget_hint
        self._signatures: dict[str, str] = {}
        """By candidate hash; a cache, a function of the program alone."""

    def propose(self, history: History) -> Proposal:
        rng = random.Random(f"evolve/{self._seed}/{len(history.outcomes)}")
        seen = self._seen(history)
        for name, program in FOUNDERS:
            if signature(program) not in seen:
                return _proposal(program, f"starts from {name}", (), 1.0)
        parents = self._parents(history)
        for _ in range(_TRIES):
            proposal, program = self._vary(parents, history, rng)
            if signature(program) not in seen:
                return _with_program(proposal, simplified(program))
        program = random_program(rng)
        return _proposal(simplified(program), "starts afresh", (), None)

    def _seen(self, history: History) -> set[str]:
        """Behaviours that need no simulation: of everything proposed, and of the reference."""
        known = {signature(FOUNDERS[0][1])}
        for outcome in history.outcomes:
            known.add(self._signature(outcome))
        return known

    def _signature(self, outcome: Outcome) -> str:
        key = outcome.proposal.candidate_hash
        if key not in self._signatures:
            program = outcome.proposal.program
            self._signatures[key] = key if program is None else signature(from_json(program))
        return self._signatures[key]

    def _parents(self, history: History) -> list[_Parent]:
        """The best so far, parsimony taken into account, best first; of those that scored alike the simplest."""
        found = [_Parent(FOUNDERS[1][1], 0.0, "")]
        for outcome in history.outcomes:
            if outcome.status == "scored" and outcome.proposal.program is not None:
                effect = history.effect(outcome)
                found.append(_Parent(from_json(outcome.proposal.program), effect, outcome.proposal.candidate_hash))
        found.sort(key=lambda parent: parent.effect + _PARSIMONY * size(parent.program))
        simplest: dict[float, _Parent] = {}
        for parent in found:
            simplest.setdefault(round(parent.effect, 9), parent)
        return list(simplest.values())

    def _vary(self, parents: Sequence[_Parent], history: History, rng: random.Random) -> tuple[Proposal, Program]:
        progress = min(1.0, len(history.outcomes) / self._budget_hint)
        found = parents[0].effect < _SUBSTANTIAL
        fresh = 0.1 if found else 0.5 if len(history.outcomes) < _SAMPLES_FIRST else 0.3
        draw = rng.random()
        if draw < fresh:
            program = random_program(rng)
            return _proposal(program, "starts afresh", (), _predicted(history, "starts afresh", 0.0)), program
        parent = _tournament(parents, rng)
        if draw < fresh + 0.25 and len(parents) > 1:
            other = _tournament([p for p in parents if p is not parent], rng)
            program, change = cross(parent.program, other.program, rng)
            return _proposal(program, change, (parent, other), _predicted(history, change, parent.effect)), program
        good = parent.effect < _SUBSTANTIAL
        tuned = tune(parent.program, rng) if rng.random() < 0.5 * progress else None
        program, change = tuned or mutate(parent.program, rng, refine=good)
        if rng.random() < (0.1 if good else 0.25):
            program, also = mutate(program, rng)
            change = f"{change} and {also}"
        return _proposal(program, change, (parent,), _predicted(history, change, parent.effect)), program


def _with_program(proposal: Proposal, program: Program) -> Proposal:
    change = proposal.change[0].upper() + proposal.change[1:]
    return replace(proposal, source=emit(program), hypothesis=f"{change}. {why(program)}", program=to_json(program))


def _tournament(parents: Sequence[_Parent], rng: random.Random) -> _Parent:
    """The best of a few drawn from the elite; ``parents`` are sorted, best first."""
    pool = min(len(parents), _ELITE)
    return parents[min(rng.randrange(pool) for _ in range(_TOURNAMENT))]


def _predicted(history: History, change: str, parent_effect: float) -> float:
    """What the same kind of change did so far, on average and shrunk towards nothing, after the parent's effect."""
    effects = {o.proposal.candidate_hash: history.effect(o) for o in history.outcomes if o.status == "scored"}
    gains = [
        effects[o.proposal.candidate_hash] - effects.get(o.proposal.parents[0], 0.0)
        if o.proposal.parents
        else effects[o.proposal.candidate_hash]
        for o in history.outcomes
        if o.status == "scored" and o.proposal.change == change
    ]
    return math.exp(parent_effect + sum(gains) / (len(gains) + 2))


def _proposal(program: Program, change: str, parents: Sequence[_Parent], predicted: float | None) -> Proposal:
    return Proposal(
        source=emit(program),
        hypothesis=f"{change[0].upper()}{change[1:]}. {why(program)}",
        predicted_effect=predicted,
        parents=tuple(parent.candidate_hash for parent in parents if parent.candidate_hash),
        change=change,
        program=to_json(program),
    )
