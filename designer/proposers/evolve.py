"""The embedded proposer: a typed evolutionary search over policy programs, with no model and no network.

It starts from what anybody would try first and from random samples. Once something is found it tunes its constants by
line search, changes one part of it at a time, and combines the parts of unlike parents; the archive keeps the best of
every structure, so that one good program does not crowd out the others. A program that decides like one already
proposed is not proposed again, unless it is a step of a line search.

Source: genetic programming with typed trees (Montana, "Strongly typed genetic programming", Evolutionary Computation
3, 1995), parsimony pressure and tournament selection (Koza, 1992), an archive by structure (Mouret and Clune,
"Illuminating search spaces by mapping elites", 2015).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, replace

from designer.proposers.behaviour import signature
from designer.proposers.emit import emit
from designer.proposers.founders import FOUNDERS, founders
from designer.proposers.grammar import Field, Program, from_json, size, to_json, walk
from designer.proposers.protocol import History, Outcome, Proposal
from designer.proposers.sampling import Sampler
from designer.proposers.simplify import simplified
from designer.proposers.tuning import ROUTING, Archive, Known, stalls
from designer.proposers.variation import cross, mutate
from designer.proposers.vocabulary import QUANTITIES
from designer.proposers.words import why

_PARSIMONY = 0.002
"""Log-ratio that one node of a program must be worth."""
_SAMPLES_FIRST = 12
"""Candidates that are random samples, more or less, as long as nothing good is found."""
_SUBSTANTIAL = math.log(0.85)
"""Once a candidate is this much better than the reference, it pays more to improve it than to look elsewhere."""
_TOURNAMENT = 2
_ELITE = 6
"""Structures, each with its best program, that may become parents."""
_TRIES = 40
_ALIKE = 2
"""Of the elite, at most, with limits on the same quantities: else what is found first soon is all there is."""
_LATELY = 30
"""Candidates; when nothing has come of them, another structure is needed more than another constant."""
_FRESH, _FRESH_STALLED = 0.12, 0.4
_TUNING, _TUNING_STALLED = 0.45, 0.25
_AFRESH = "starts afresh"
_TUNED = 3
"""The best so many structures of the elite have their constants tuned."""


@dataclass(frozen=True, slots=True)
class _Parent:
    program: Program
    effect: float
    """Log-ratio to the reference."""
    candidate_hash: str
    """Empty for a founder that was never proposed, as it behaves like the reference."""
    shape: Hashable
    size: int
    limited: frozenset[str]
    """The quantities that its limits read of a worker and a request."""


class EvolveProposer:
    """``offered``: the quantities a program may read."""

    name = "evolve"

    def __init__(self, seed: int, offered: Set[str] = frozenset(QUANTITIES)) -> None:
        self._seed = seed
        self._offered = offered
        self._archive = Archive(ROUTING, from_json)
        self._signatures: dict[str, str] = {}
        """By candidate hash, or founder's name; a cache, a function of the program alone, as ``_traits``."""
        self._traits: dict[str, tuple[int, frozenset[str]]] = {}

    def propose(self, history: History) -> Proposal:
        sampler = Sampler(random.Random(f"evolve/{self._seed}/{len(history.outcomes)}"), self._offered)
        seen = self._seen(history)
        for name, program in founders(self._offered):
            if self._of_founder(name, program) not in seen:
                return _proposal(program, f"starts from {name}", (), 1.0)
        known = self._archive.known(history)
        parents = self._parents(known)
        stalled = stalls(known, _LATELY)
        step = self._tune(parents, known, history, sampler, _TUNING_STALLED if stalled else _TUNING)
        if step is not None:
            return step
        for _ in range(_TRIES):
            proposal, program = self._vary(parents, history, sampler, _FRESH_STALLED if stalled else _FRESH)
            if signature(program) not in seen:
                return _with_program(proposal, simplified(program))
        return _proposal(simplified(sampler.program()), _AFRESH, (), None)

    def _tune(
        self,
        parents: Sequence[_Parent],
        known: Sequence[Known[Program]],
        history: History,
        sampler: Sampler,
        how_often: float,
    ) -> Proposal | None:
        """Once something good is found: a step on a line through one of the best structures."""
        rng = sampler.rng
        good = [parent for parent in _elite(parents)[:_TUNED] if parent.effect < _SUBSTANTIAL]
        if not good or rng.random() >= how_often:
            return None
        for parent in sorted(good, key=lambda parent: (rng.random() < 0.4, parent.effect)):
            together = ROUTING.shaken(parent.program, rng) if rng.random() < 0.2 else None
            relatives = [one for one in known if one.shape == parent.shape]
            program = together or ROUTING.tuned(parent.program, relatives, rng)
            if program is not None and all(program != one.program for one in known):
                change = "moves all constants a little" if together else "tunes a constant"
                proposal = _proposal(program, change, (parent,), predicted_effect(history, change, parent.effect))
                return _with_program(proposal, program)
        return None

    def _seen(self, history: History) -> set[str]:
        """Behaviours that need no simulation: of everything proposed, and of the reference."""
        known = {self._of_founder(*FOUNDERS[0])}
        for outcome in history.outcomes:
            known.add(self._signature(outcome))
        return known

    def _of_founder(self, name: str, program: Program) -> str:
        if name not in self._signatures:
            self._signatures[name] = signature(program)
        return self._signatures[name]

    def _signature(self, outcome: Outcome) -> str:
        key = outcome.proposal.candidate_hash
        if key not in self._signatures:
            program = outcome.proposal.program
            self._signatures[key] = key if program is None else signature(from_json(program))
        return self._signatures[key]

    def _parents(self, known: Sequence[Known[Program]]) -> list[_Parent]:
        """The best program of every structure, parsimony taken into account, best first."""
        founder = FOUNDERS[1][1]
        found = [_Parent(founder, 0.0, "", ROUTING.skeleton(founder), size(founder), frozenset())]
        found += [
            _Parent(one.program, one.effect, one.candidate_hash, one.shape, *self._read(one))
            for one in known
            if one.effect is not None
        ]
        found.sort(key=lambda parent: parent.effect + _PARSIMONY * parent.size)
        best: dict[Hashable, _Parent] = {}
        for parent in found:
            best.setdefault(parent.shape, parent)
        alike = {round(parent.effect, 9): parent for parent in reversed(best.values())}
        return [parent for parent in best.values() if alike[round(parent.effect, 9)] is parent]

    def _read(self, one: Known[Program]) -> tuple[int, frozenset[str]]:
        if one.candidate_hash not in self._traits:
            self._traits[one.candidate_hash] = size(one.program), _limited(one.program)
        return self._traits[one.candidate_hash]

    def _vary(
        self, parents: Sequence[_Parent], history: History, sampler: Sampler, often_fresh: float
    ) -> tuple[Proposal, Program]:
        rng = sampler.rng
        elite = _elite(parents)
        found = parents[0].effect < _SUBSTANTIAL
        fresh = often_fresh if found else 0.8 if len(history.outcomes) < _SAMPLES_FIRST else 0.5
        draw = rng.random()
        if draw < fresh:
            program = sampler.program()
            return _proposal(program, _AFRESH, (), predicted_effect(history, _AFRESH, 0.0)), program
        parent = _tournament(elite, rng)
        if draw < fresh + 0.25 and len(elite) > 1:
            other = _tournament([p for p in elite if p is not parent], rng)
            program, change = cross(parent.program, other.program, sampler)
            return _proposal(
                program, change, (parent, other), predicted_effect(history, change, parent.effect)
            ), program
        good = parent.effect < _SUBSTANTIAL
        program, change = mutate(parent.program, sampler, refine=good)
        if rng.random() < 0.2:
            program, also = mutate(program, sampler, refine=good)
            change = f"{change} and {also}"
        return _proposal(program, change, (parent,), predicted_effect(history, change, parent.effect)), program


def _with_program(proposal: Proposal, program: Program) -> Proposal:
    change = proposal.change[0].upper() + proposal.change[1:]
    return replace(proposal, source=emit(program), hypothesis=f"{change}. {why(program)}", program=to_json(program))


def _elite(parents: Sequence[_Parent]) -> list[_Parent]:
    """The best first, few of them with limits on the same quantities."""
    alike: Counter[frozenset[str]] = Counter()
    elite = []
    for parent in parents:
        if alike[parent.limited] < _ALIKE:
            alike[parent.limited] += 1
            elite.append(parent)
    return elite[:_ELITE]


def _tournament(elite: Sequence[_Parent], rng: random.Random) -> _Parent:
    """The best of a few drawn; they are sorted, best first."""
    return elite[min(rng.randrange(len(elite)) for _ in range(_TOURNAMENT))]


def _limited(program: Program) -> frozenset[str]:
    nodes = (node for limit in program.limits for node in walk(limit.demand))
    return frozenset(node.name for node in nodes if isinstance(node, Field))


def predicted_effect(history: History, change: str, parent_effect: float) -> float:
    """What the same kind of change did so far, on average and shrunk towards nothing, after the parent's effect."""
    known = zip(history.outcomes, history.effects(), strict=True)
    effects = {o.proposal.candidate_hash: effect for o, effect in known if effect is not None}
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
