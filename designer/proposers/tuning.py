"""Constants by line search: one constant of a program at a time, from what its near relatives have scored already.

All candidates that differ from the best in one constant alone lie on a line. A line that was never tried gets a step to
one side; one side known, a step to the other; both known, the lowest point of the parabola through the three (Brent,
"Algorithms for Minimization without Derivatives", 1973, without his safeguards: every point is a candidate that is
scored like any other). Scales are the constants' own: relative steps where a constant spans orders of magnitude.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from designer.proposers.grammar import Const, GrammarError, Program, canonical, check, put, sites
from designer.proposers.protocol import History, Proposal
from designer.proposers.sampling import rounded
from designer.proposers.vocabulary import CONSTANTS, ConstantKind

_P = TypeVar("_P")
_STEP = 0.12
"""Of a constant's range: the first step to either side."""
_FINE = 0.012
"""Closer than this two values are one."""
_PROGRESS = 0.004
"""Log-ratio that the latest candidates must have gained."""
_TOGETHER = 0.06
"""Standard deviation, as a share of the ranges, when all constants move at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Known(Generic[_P]):
    """A program of the run."""

    program: _P
    effect: float | None
    """Log-ratio to the reference; None while it waits for its score."""
    shape: Hashable
    """Its ``Space.skeleton``."""
    constants: Mapping[Any, Const]
    candidate_hash: str = ""


@dataclass(frozen=True, slots=True)
class Space(Generic[_P]):
    """How the constants of one kind of program are read and replaced."""

    kinds: Mapping[str, ConstantKind]
    constants: Callable[[_P], Mapping[Any, Const]]
    """By any key that is the same in programs of one structure."""
    replaced: Callable[[_P, Mapping[Any, Const]], _P | None]
    """None: the program would break a rule."""
    first: Set[str] = frozenset()
    """Kinds of constants that matter most: their lines are searched before all others."""
    cliff: float = math.inf
    """A point that is worse by more than this, in log-ratio, counts as worse by this much: beyond a broken promise the
    effect says where not to go, and nothing about the shape of the bowl before it."""

    def known(self, program: _P, effect: float | None, candidate_hash: str = "") -> Known[_P]:
        """What line searches ask of a program, read off it once."""
        return Known(program, effect, self.skeleton(program), self.constants(program), candidate_hash)

    def tuned(self, best: _P, relatives: Sequence[Known[_P]], rng: random.Random) -> _P | None:
        """The next point of a line search from ``best``; None when every constant of it is settled.

        Args:
            relatives: the programs of its structure, itself among them.
        """
        constants = self.constants(best)
        keys = list(constants)
        rng.shuffle(keys)
        keys.sort(key=lambda key: constants[key].kind not in self.first)
        for key in keys:
            line = self._line(best, constants, key, relatives)
            position = _next_position(line, self._position(constants[key]), rng, self.cliff)
            if position is not None:
                moved = self._moved(best, {key: position})
                if moved is not None and all(moved != relative.program for relative in relatives):
                    return moved
        return None

    def bracketed(self, best: _P, relatives: Sequence[Known[_P]]) -> _P | None:
        """A step upwards, or if that is known to be worse downwards, of a constant that comes first.

        None once each of them has a worse neighbour on either side, or a score must be waited for.
        """
        constants = self.constants(best)
        for key, constant in constants.items():
            if constant.kind in self.first:
                position = _open_side(self._line(best, constants, key, relatives), self._position(constant))
                if position is not None:
                    return self._moved(best, {key: position})
        return None

    def shaken(self, best: _P, rng: random.Random) -> _P | None:
        """All constants moved a little at once; None when there are fewer than two."""
        keys = list(self.constants(best))
        if len(keys) < 2:
            return None
        constants = self.constants(best)
        return self._moved(best, {key: self._position(constants[key]) + rng.gauss(0.0, _TOGETHER) for key in keys})

    def skeleton(self, program: _P) -> Hashable:
        """Equal for programs that differ in their constants alone."""
        lowest = {key: Const(c.kind, self.kinds[c.kind].low) for key, c in self.constants(program).items()}
        return repr(self.replaced(program, lowest))

    def constant_at(self, kind: str, position: float) -> Const:
        """The constant at this place of its range, 0 to 1."""
        return rounded(self.kinds[kind], self.kinds[kind].value_at(position))

    def _line(
        self, best: _P, constants: Mapping[Any, Const], key: Any, relatives: Sequence[Known[_P]]
    ) -> dict[float, float | None]:
        """Effect by position of the constant at ``key``, of those that agree with ``best`` in all others."""
        here, others = {key: constants[key]}, _others(constants, key)
        return {
            self._position(one.constants[key]): one.effect
            for one in relatives
            if _others(one.constants, key) == others and self.replaced(one.program, here) == best
        }

    def _position(self, constant: Const) -> float:
        return self.kinds[constant.kind].position_of(constant.value)

    def _moved(self, program: _P, positions: Mapping[Any, float]) -> _P | None:
        kinds = {key: self.kinds[self.constants(program)[key].kind] for key in positions}
        return self.replaced(program, {k: rounded(kinds[k], kinds[k].value_at(x)) for k, x in positions.items()})


class Archive(Generic[_P]):
    """The programs of a run's candidates. What is read off a program is kept, by candidate hash: a search asks about
    all of them for each new one."""

    def __init__(self, space: Space[_P], read: Callable[[Mapping[str, Any]], _P]) -> None:
        self._space = space
        self._read = read
        self._of: dict[str, Known[_P]] = {}

    def known(self, history: History) -> list[Known[_P]]:
        """Those with a program that did not fail, in the order they were proposed."""
        return [
            replace(self.of(outcome.proposal), effect=effect)
            for outcome, effect in zip(history.outcomes, history.effects(), strict=True)
            if outcome.proposal.program is not None and outcome.status != "failed"
        ]

    def of(self, proposal: Proposal) -> Known[_P]:
        """Of one that has a program; without its effect."""
        digest = proposal.candidate_hash
        if digest not in self._of:
            self._of[digest] = self._space.known(self._read(proposal.program or {}), None, digest)
        return self._of[digest]


def stalls(known: Sequence[Known[_P]], lately: int) -> bool:
    """Whether the best of all is hardly better than the best of those before so many of the latest."""
    effects = [math.inf if one.effect is None else one.effect for one in known]
    before = effects[:-lately]
    return bool(before) and min(before) - min(effects) < _PROGRESS


def _others(constants: Mapping[Any, Const], key: Any) -> list[tuple[str, float]]:
    """All but one, in an order of their own: programs on one line agree in these, wherever they stand."""
    return sorted((constant.kind, constant.value) for at, constant in constants.items() if at != key)


def _constants(program: Program) -> Mapping[Any, Const]:
    return {site.path: site.expr for site in sites(program) if isinstance(site.expr, Const)}


def _replaced(program: Program, values: Mapping[Any, Const]) -> Program | None:
    for path, constant in values.items():
        program = put(program, path, constant)
    try:
        return check(canonical(program))
    except GrammarError:
        return None


ROUTING: Space[Program] = Space(CONSTANTS, _constants, _replaced)
"""Of limits, choice and order."""


def _neighbours(line: Mapping[float, float | None], at: float) -> tuple[float | None, float | None]:
    left = max((x for x in line if x < at - 1e-9), default=None)
    right = min((x for x in line if x > at + 1e-9), default=None)
    return left, right


def _open_side(line: Mapping[float, float | None], at: float) -> float | None:
    left, right = _neighbours(line, at)
    if right is None and at < 1 - _FINE:
        return min(1.0, at + _STEP)
    if left is None and at > _FINE and (right is None or line[right] is not None):
        return max(0.0, at - _STEP)
    return None


def _next_position(
    line: Mapping[float, float | None], at: float, rng: random.Random, cliff: float = math.inf
) -> float | None:
    """Where to look next on a line of position to effect; None when it is settled, or waits for a score."""
    left, right = _neighbours(line, at)
    if any(x is not None and line[x] is None for x in (left, right)):
        return None
    rooms = {-1: at > _FINE and left is None, 1: at < 1 - _FINE and right is None}
    free = [side for side, room in rooms.items() if room]
    if free:
        side = rng.choice(free)
        return min(1.0, max(0.0, at + side * _STEP))
    if left is None or right is None:
        inner = left if right is None else right
        gap = 0.0 if inner is None else inner - at
        return at + gap / 2 if abs(gap) > 2 * _FINE else None
    return _between(left, at, right, line, cliff)


def _between(
    left: float, at: float, right: float, line: Mapping[float, float | None], cliff: float = math.inf
) -> float | None:
    """The parabola's lowest point; where that is here, the middle of the wider side."""
    low, here, high = line[left], line[at], line[right]
    lowest = at
    if low is not None and here is not None and high is not None:
        low, high = min(low, here + cliff), min(high, here + cliff)
        a, b = (at - left) * (here - high), (at - right) * (here - low)
        if abs(a - b) > 1e-12:
            lowest = at - 0.5 * ((at - left) * a - (at - right) * b) / (a - b)
    lowest = min(max(lowest, left + _FINE), right - _FINE)
    if abs(lowest - at) >= _FINE:
        return lowest
    wider = left if at - left > right - at else right
    return (at + wider) / 2 if abs(wider - at) > 3 * _FINE else None
