"""Parts of a program that decide nothing are left out before it is written down: free of simulations, and legible."""

from __future__ import annotations

from collections.abc import Iterator

from designer.proposers.behaviour import answers, decide_alike
from designer.proposers.grammar import (
    Const,
    GrammarError,
    Larger,
    Program,
    Smaller,
    Sum,
    Times,
    canonical,
    check,
    put,
    sites,
    with_slot,
)


def simplified(program: Program) -> Program:
    """The program without what changes no decision in the fixed situations of ``behaviour.answers``."""
    wanted = list(answers(program))
    found = True
    while found:
        found = False
        for smaller in _reductions(program):
            if decide_alike(smaller, wanted):
                program, found = smaller, True
                break
    return program


def _reductions(program: Program) -> Iterator[Program]:
    """Every valid program with one thing less, the largest things first."""
    for candidate in (*_without_rules(program), *_without_parts(program)):
        try:
            reduced = check(canonical(candidate))
        except GrammarError:
            continue
        if reduced != program:
            yield reduced


def _without_rules(program: Program) -> Iterator[Program]:
    for slot in ("limits", "order", "choice"):
        rules = getattr(program, slot)
        for n in range(len(rules)):
            yield with_slot(program, slot, (*rules[:n], *rules[n + 1 :]))


def _without_parts(program: Program) -> Iterator[Program]:
    for site in sites(program):
        match site.expr:
            case Sum(terms):
                for n in range(len(terms)):
                    rest = (*terms[:n], *terms[n + 1 :])
                    yield put(program, site.path, Sum(rest) if len(rest) > 1 else rest[0])
            case Larger(left, right) | Smaller(left, right):
                yield put(program, site.path, left)
                yield put(program, site.path, right)
            case Times(Const(), of):
                yield put(program, site.path, of)
