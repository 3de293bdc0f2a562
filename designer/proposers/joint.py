"""Proposers over programs of any parts: evolution, independent samples, and known rules with their constants tuned.

Evolution changes one part at a time, swaps parts between parents, and tunes the constants of all parts by line search;
the best of every structure is kept. It starts from known rules, of each part the plainest first. What one replica
carries depends on the replicas, so no rule starts where it is good: that constant of each is searched to either side
before any rule is judged by its score.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence, Set
from typing import Any

from designer.proposers.evolve import predicted_effect
from designer.proposers.founders import founders
from designer.proposers.parts import (
    JOINT,
    PARTS,
    Joint,
    PartName,
    Rules,
    behaviour,
    emit_joint,
    from_json,
    to_json,
    why_joint,
)
from designer.proposers.protocol import History, Proposal
from designer.proposers.sampling import Sampler
from designer.proposers.tuning import Archive, Known, stalls
from designer.proposers.vocabulary import QUANTITIES

_FRESH_FIRST = 6
"""Candidates, for each part, that are samples as often as anything else."""
_TUNING = 0.65
_TUNING_SELDOM = 0.3
"""At first, and when nothing has come of the latest candidates: then another structure is needed."""
_LATELY = 12
_FRESH = 0.12
_CROSSED = 0.25
_AGAIN = 0.25
"""A child of a mutation is mutated once more so often."""
_PART_AFRESH = 0.35
_TUNED = 3
"""So many of the most promising structures have their constants tuned."""
_HOPE = 0.6
"""Log-ratio by which a structure may be better than it looks after one try; shared out over its tries."""
_ELITE = 6
_BRACKET = 6
"""Values, at most, of the constant that matters most, which a rule of the start is tried with before it competes."""
_TRIES = 40
_DRAWS = 3
"""Values of their constants that known rules are tried with before any is given up: one may start far from its best."""
_AFRESH = "starts afresh"


_Known = Known[Joint]


class JointProposer:
    """``mode``: ``evolve``, ``random`` or ``tuned-baseline``, as their namesakes for routing."""

    def __init__(
        self, mode: str, parts: Sequence[PartName], seed: int, offered: Set[str] = frozenset(QUANTITIES)
    ) -> None:
        self.name = mode
        self._parts = tuple(parts)
        self._seed = seed
        self._offered = offered
        self._archive = Archive(JOINT, from_json)
        self._behaviours: dict[str, Hashable] = {}
        """By candidate hash; a cache, a function of the program alone."""

    def propose(self, history: History) -> Proposal:
        number = len(history.outcomes)
        rng = random.Random(f"joint/{self.name}/{'+'.join(self._parts)}/{self._seed}/{number}")
        sampler = Sampler(rng, self._offered)
        known = self._archive.known(history)
        if self.name == "random":
            return _proposal(self._sampled(sampler), "is drawn at random", history)
        if self.name == "tuned-baseline":
            return self._known_rule(known, number, history, rng)
        return self._evolved(known, number, history, sampler)

    def _sampled(self, sampler: Sampler) -> Joint:
        return Joint(tuple((name, PARTS[name].sample(sampler)) for name in self._parts))

    def _known_rule(self, known: Sequence[_Known], number: int, history: History, rng: random.Random) -> Proposal:
        """Every rule with a few values of its constants, then line searches on the best of them."""
        rules = list(self._combined([PARTS[name].rules for name in self._parts]))
        if number < len(rules):
            return _proposal(rules[number], "starts from known rules", history)
        if number >= _DRAWS * len(rules):
            step = _step(known, _leaders(known), history, rng)
            if step is not None:
                return step
        mixed = Joint(tuple((name, rng.choice(PARTS[name].rules)[1]) for name in self._parts))
        return _proposal(_redrawn(mixed, rng), "gives known rules other constants", history)

    def _combined(self, rules: Sequence[Rules]) -> Iterator[Joint]:
        """Every rule of every part at least once, the first of all parts first."""
        for n in range(max(map(len, rules))):
            parts = zip(self._parts, rules, strict=True)
            yield Joint(tuple((name, of_part[n % len(of_part)][1]) for name, of_part in parts))

    def _evolved(self, known: Sequence[_Known], number: int, history: History, sampler: Sampler) -> Proposal:
        starts = list(self._combined([self._founders(name) for name in self._parts]))
        if number < len(starts):
            return _proposal(starts[number], "starts from known rules", history)
        step = _bracketing(known, starts, history)
        if step is not None:
            return step
        leaders = _leaders(known)
        early = number < _FRESH_FIRST * len(self._parts)
        if sampler.rng.random() < (_TUNING_SELDOM if early or stalls(known, _LATELY) else _TUNING):
            step = _step(known, leaders, history, sampler.rng)
            if step is not None:
                return step
        taken = {self._behaviour(one) for one in known}
        for _ in range(_TRIES):
            program, change, parents = self._varied(leaders, sampler, fresh=0.6 if early else _FRESH)
            if behaviour(program) not in taken:
                return _proposal(program, change, history, parents)
        return _proposal(self._sampled(sampler), _AFRESH, history)

    def _founders(self, name: PartName) -> Rules:
        return founders(self._offered) if name == "routing" else PARTS[name].founders

    def _behaviour(self, known: _Known) -> Hashable:
        if known.candidate_hash not in self._behaviours:
            self._behaviours[known.candidate_hash] = behaviour(known.program)
        return self._behaviours[known.candidate_hash]

    def _varied(
        self, leaders: Sequence[_Known], sampler: Sampler, *, fresh: float
    ) -> tuple[Joint, str, tuple[_Known, ...]]:
        rng = sampler.rng
        draw = rng.random()
        if not leaders or draw < fresh:
            return self._sampled(sampler), _AFRESH, ()
        parent = _drawn(leaders, rng)
        if draw < fresh + _CROSSED and len(leaders) > 1:
            other = _drawn([leader for leader in leaders if leader is not parent], rng)
            program, change = _crossed(parent.program, other.program, sampler)
            return program, change, (parent, other)
        program, change = _mutated(parent.program, sampler)
        if rng.random() < _AGAIN:
            program, also = _mutated(program, sampler)
            change = f"{change} and {also}"
        return program, change, (parent,)


def _mutated(program: Joint, sampler: Sampler) -> tuple[Joint, str]:
    """One part changed; of several, one may be drawn anew and the others kept."""
    name, part = sampler.rng.choice(program.parts)
    if len(program.parts) > 1 and sampler.rng.random() < _PART_AFRESH:
        return program.with_part(name, PARTS[name].sample(sampler)), f"{name}: starts afresh"
    changed, words = PARTS[name].mutate(part, sampler)
    return program.with_part(name, changed), _in_part(program, name, words)


def _crossed(first: Joint, second: Joint, sampler: Sampler) -> tuple[Joint, str]:
    """Some parts of the second in the first; a part of both is crossed itself where there is no other."""
    theirs = dict(second.parts)
    swapped = [name for name, part in first.parts if theirs[name] != part and sampler.rng.random() < 0.5]
    if len(first.parts) > 1 and 0 < len(swapped) < len(first.parts):
        child = Joint(tuple((name, theirs[name] if name in swapped else part) for name, part in first.parts))
        return child, f"takes the {' and '.join(swapped)} of another parent"
    name, part = sampler.rng.choice(first.parts)
    crossed, words = PARTS[name].cross(part, theirs[name], sampler)
    return first.with_part(name, crossed), _in_part(first, name, words)


def _in_part(program: Joint, name: PartName, words: str) -> str:
    return words if len(program.parts) == 1 else f"{name}: {words}"


def _leaders(known: Sequence[_Known]) -> list[_Known]:
    """The best of every structure, best first."""
    scored = sorted((one for one in known if one.effect is not None), key=_effect)
    best: dict[Hashable, _Known] = {}
    for one in scored:
        best.setdefault(one.shape, one)
    return list(best.values())


def _effect(known: _Known) -> float:
    return 0.0 if known.effect is None else known.effect


def _drawn(leaders: Sequence[_Known], rng: random.Random) -> _Known:
    """The better of two of the elite."""
    elite = min(len(leaders), _ELITE)
    return leaders[min(rng.randrange(elite) for _ in range(2))]


def _step(known: Sequence[_Known], leaders: Sequence[_Known], history: History, rng: random.Random) -> Proposal | None:
    """A step of a line search on a structure that is good, or may be: few values of its constants were tried."""
    tried = Counter(one.shape for one in known)
    hopes = {one.candidate_hash: _effect(one) - _HOPE / tried[one.shape] for one in leaders}
    promising = sorted(leaders, key=lambda one: hopes[one.candidate_hash])[:_TUNED]
    for leader in sorted(promising, key=lambda one: (rng.random() < 0.3, hopes[one.candidate_hash])):
        together = JOINT.shaken(leader.program, rng) if rng.random() < 0.1 else None
        relatives = [one for one in known if one.shape == leader.shape]
        step = together or JOINT.tuned(leader.program, relatives, rng)
        if step is not None and all(step != one.program for one in known):
            change = "moves all constants a little" if together else "tunes a constant"
            return _proposal(step, change, history, (leader,))
    return None


def _bracketing(known: Sequence[_Known], starts: Sequence[Joint], history: History) -> Proposal | None:
    """For each rule of the start in turn, the next value of what decides most, until its best lies between others."""
    best_of_all = min((one.effect for one in known if one.effect is not None), default=0.0)
    for founder in starts:
        shape = JOINT.skeleton(founder)
        alike = [one for one in known if one.shape == shape]
        best = min(alike, key=lambda one: math.inf if one.effect is None else one.effect, default=None)
        if best is None or len(alike) >= _BRACKET:
            continue
        if len(alike) >= _DRAWS and _effect(best) > best_of_all + _HOPE:
            continue
        step = JOINT.bracketed(best.program, alike)
        if step is not None and all(step != one.program for one in known):
            return _proposal(step, "tunes a constant", history, (best,))
    return None


def _redrawn(program: Joint, rng: random.Random) -> Joint:
    """The same rules with other constants."""
    drawn: dict[Any, Any] = {}
    for key, constant in JOINT.constants(program).items():
        kind = JOINT.kinds[constant.kind]
        drawn[key] = JOINT.constant_at(constant.kind, rng.triangular(0.0, 1.0, kind.position_of(constant.value)))
    return JOINT.replaced(program, drawn) or program


def _proposal(program: Joint, change: str, history: History, parents: Sequence[_Known] = ()) -> Proposal:
    effect = _effect(parents[0]) if parents else 0.0
    tells = bool(parents) or change == _AFRESH
    return Proposal(
        source=emit_joint(program),
        hypothesis=f"{change[0].upper()}{change[1:]}. {why_joint(program)}",
        predicted_effect=predicted_effect(history, change, effect) if tells else None,
        parents=tuple(parent.candidate_hash for parent in parents),
        change=change,
        program=to_json(program),
    )
