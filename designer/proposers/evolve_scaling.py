"""The embedded proposers for autoscaling: evolution over scaling rules, independent samples, and tuned known rules."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from designer.proposers.emit_scaling import emit_scaling, why_scaling
from designer.proposers.grammar import Const
from designer.proposers.protocol import History, Proposal
from designer.proposers.scaling import (
    CONSTANTS,
    SIGNALS,
    ScalingProgram,
    Signal,
    SignalName,
    check,
    constants,
    from_json,
    mutate,
    random_constant,
    random_scaling,
    to_json,
    with_constants,
)
from designer.proposers.tuning import Space

_FRESH_FIRST = 10
_TUNING = 0.55
_TRIES = 40
_DRAWS = 4
"""Values of the constants that every known rule is tried with before any is tuned: one may start far from its best."""
Known = Sequence[tuple[ScalingProgram, float | None, str]]
"""Program, effect (None: not scored yet) and candidate hash."""


def _rule(signal: SignalName, carried: float, hold: float) -> ScalingProgram:
    others = (Const("spare_replicas", 0.0), Const("hold_seconds", hold), Const("lead_seconds", 30.0))
    return ScalingProgram((Signal(signal, Const(SIGNALS[signal].carried, carried)),), "larger", *others)


FAMILIES: tuple[tuple[str, ScalingProgram], ...] = (
    ("target tracking on requests", _rule("requests", 32.0, 300.0)),
    ("a queue-length rule", _rule("waiting", 4.0, 300.0)),
    ("a rate a replica carries", _rule("arrivals", 4.0, 300.0)),
)
"""The Kubernetes HorizontalPodAutoscaler with an average value, on what operators give it."""


def _replaced(program: ScalingProgram, values: Mapping[Any, Const]) -> ScalingProgram | None:
    return check(with_constants(program, values))


SCALING: Space[ScalingProgram] = Space(CONSTANTS, constants, _replaced)


class ScalingProposer:
    """``mode``: ``evolve``, ``random`` or ``tuned-baseline``, as their namesakes for routing."""

    def __init__(self, mode: str, seed: int) -> None:
        self.name = mode
        self._seed = seed

    def propose(self, history: History) -> Proposal:
        n = len(history.outcomes)
        rng = random.Random(f"scaling/{self.name}/{self._seed}/{n}")
        known = [
            (
                from_json(o.proposal.program),
                history.effect(o) if o.status == "scored" else None,
                o.proposal.candidate_hash,
            )
            for o in history.outcomes
            if o.proposal.program is not None and o.status != "failed"
        ]
        if self.name == "random":
            return _proposal(random_scaling(rng), "is drawn at random", ())
        if self.name == "tuned-baseline":
            return self._known_rule(known, n, rng)
        return self._evolved(known, n, rng)

    def _known_rule(self, known: Known, n: int, rng: random.Random) -> Proposal:
        if n < len(FAMILIES):
            return _proposal(FAMILIES[n][1], FAMILIES[n][0], ())
        stepped = _step(known, rng, count=len(FAMILIES)) if n >= _DRAWS * len(FAMILIES) else None
        if stepped is not None:
            return stepped
        name, rule = FAMILIES[n % len(FAMILIES)]
        drawn = {key: random_constant(rng, constant.kind) for key, constant in constants(rule).items()}
        return _proposal(with_constants(rule, drawn), name, ())

    def _evolved(self, known: Known, n: int, rng: random.Random) -> Proposal:
        if n < len(FAMILIES):
            return _proposal(FAMILIES[n][1], f"starts from {FAMILIES[n][0]}", ())
        if rng.random() < (_TUNING if n > _FRESH_FIRST else 0.2):
            stepped = _step(known, rng, count=2)
            if stepped is not None:
                return stepped
        leaders = _leaders(known)
        taken = {program for program, _, _ in known}
        for _ in range(_TRIES):
            if n < _FRESH_FIRST or not leaders or rng.random() < 0.2:
                proposal, program = None, random_scaling(rng)
            else:
                parent, _, parent_hash = leaders[min(rng.randrange(min(4, len(leaders))) for _ in range(2))]
                program, change = mutate(parent, rng)
                proposal = _proposal(program, change, (parent_hash,))
            if program not in taken:
                return proposal or _proposal(program, "starts afresh", ())
        return _proposal(random_scaling(rng), "starts afresh", ())


def _leaders(known: Known) -> list[tuple[ScalingProgram, float, str]]:
    """The best of every structure, best first."""
    scored = sorted(((p, e, h) for p, e, h in known if e is not None), key=lambda entry: entry[1])
    best: dict[Hashable, tuple[ScalingProgram, float, str]] = {}
    for entry in scored:
        best.setdefault(SCALING.skeleton(entry[0]), entry)
    return list(best.values())


def _step(known: Known, rng: random.Random, *, count: int) -> Proposal | None:
    """A step of a line search on one of the best structures."""
    pairs = [(program, effect) for program, effect, _ in known]
    leaders = _leaders(known)[:count]
    for program, _, parent in sorted(leaders, key=lambda entry: (rng.random() < 0.4, entry[1])):
        step = SCALING.tuned(program, pairs, rng)
        if step is not None and all(step != other for other, _ in pairs):
            return _proposal(step, "tunes a constant", (parent,))
    return None


def _proposal(program: ScalingProgram, change: str, parents: tuple[str, ...]) -> Proposal:
    return Proposal(
        source=emit_scaling(program),
        hypothesis=f"{change[0].upper()}{change[1:]}. {why_scaling(program)}",
        predicted_effect=None,
        parents=parents,
        change=change,
        program=to_json(program),
    )
