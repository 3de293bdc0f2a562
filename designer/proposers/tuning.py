"""Constants by line search: one constant of a program at a time, from what its near relatives have scored already.

All candidates that differ from the best in one constant alone lie on a line. A line that was never tried gets a step to
one side; one side known, a step to the other; both known, the lowest point of the parabola through the three (Brent,
"Algorithms for Minimization without Derivatives", 1973, without his safeguards: every point is a candidate that is
scored like any other). Scales are the constants' own: relative steps where a constant spans orders of magnitude.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from designer.proposers.grammar import Const, GrammarError, Path, Program, canonical, check, put, sites
from designer.proposers.sampling import rounded
from designer.proposers.vocabulary import CONSTANTS, ConstantKind

Known = tuple[Program, float | None]
"""A program and its effect; None while it waits for its score."""
_STEP = 0.12
"""Of a constant's range: the first step to either side."""
_FINE = 0.012
"""Closer than this two values are one."""
_TOGETHER = 0.06
"""Standard deviation, as a share of the ranges, when all constants move at once."""


def tuned(best: Program, known: Sequence[Known], rng: random.Random) -> Program | None:
    """The next point of a line search from ``best``; None when every constant of it is settled."""
    relatives = [(program, effect) for program, effect in known if skeleton(program) == skeleton(best)]
    paths = list(_constants(best))
    rng.shuffle(paths)
    for path in paths:
        position = _next_position(_line(best, path, relatives), _position(best, path), rng)
        if position is not None:
            moved = _moved(best, {path: position})
            if moved is not None and all(moved != program for program, _ in relatives):
                return moved
    return None


def shaken(best: Program, rng: random.Random) -> Program | None:
    """All constants moved a little at once; None when there are fewer than two."""
    paths = list(_constants(best))
    if len(paths) < 2:
        return None
    return _moved(best, {path: _position(best, path) + rng.gauss(0.0, _TOGETHER) for path in paths})


def _next_position(line: Mapping[float, float | None], at: float, rng: random.Random) -> float | None:
    """Where to look next on a line of position to effect; None when it is settled, or waits for a score."""
    left = max((x for x in line if x < at - 1e-9), default=None)
    right = min((x for x in line if x > at + 1e-9), default=None)
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
    return _between(left, at, right, line)


def _between(left: float, at: float, right: float, line: Mapping[float, float | None]) -> float | None:
    """The parabola's lowest point; where that is here, the middle of the wider side."""
    low, here, high = line[left], line[at], line[right]
    lowest = at
    if low is not None and here is not None and high is not None:
        a, b = (at - left) * (here - high), (at - right) * (here - low)
        if abs(a - b) > 1e-12:
            lowest = at - 0.5 * ((at - left) * a - (at - right) * b) / (a - b)
    lowest = min(max(lowest, left + _FINE), right - _FINE)
    if abs(lowest - at) >= _FINE:
        return lowest
    wider = left if at - left > right - at else right
    return (at + wider) / 2 if abs(wider - at) > 3 * _FINE else None


def _line(best: Program, path: Path, relatives: Sequence[Known]) -> dict[float, float | None]:
    """Effect by position of the constant at ``path``, of those that agree with ``best`` in all others."""
    here = _position(best, path)
    return {_position(program, path): effect for program, effect in relatives if _moved(program, {path: here}) == best}


def skeleton(program: Program) -> Program:
    """The program with its constants taken out."""
    for path, constant in _constants(program).items():
        program = put(program, path, Const(constant.kind, 0.0))
    return program


def _constants(program: Program) -> dict[Path, Const]:
    return {site.path: site.expr for site in sites(program) if isinstance(site.expr, Const)}


def _position(program: Program, path: Path) -> float:
    """Of the constant at ``path`` within its range: 0 to 1."""
    constant = _constants(program)[path]
    kind = CONSTANTS[constant.kind]
    low, high = _ends(kind)
    value = math.log(constant.value) if kind.logarithmic else constant.value
    return (value - low) / (high - low)


def _moved(program: Program, positions: Mapping[Path, float]) -> Program | None:
    constants = _constants(program)
    for path, position in positions.items():
        kind = CONSTANTS[constants[path].kind]
        low, high = _ends(kind)
        value = low + min(1.0, max(0.0, position)) * (high - low)
        program = put(program, path, rounded(kind, math.exp(value) if kind.logarithmic else value))
    try:
        return check(canonical(program))
    except GrammarError:
        return None


def _ends(kind: ConstantKind) -> tuple[float, float]:
    return (math.log(kind.low), math.log(kind.high)) if kind.logarithmic else (kind.low, kind.high)
