"""Typed mutation and crossover: every child is a program of the grammar, and knows in words what was done to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from designer.proposers.grammar import (
    MAX_LIMITS,
    MAX_RANKS,
    Const,
    Expr,
    Field,
    GrammarError,
    Program,
    Rank,
    Site,
    Sum,
    Times,
    canonical,
    check,
    put,
    sites,
    with_slot,
)
from designer.proposers.sampling import Sampler, rounded
from designer.proposers.vocabulary import CONSTANTS

Change = tuple[Program, str]
"""A program and what was done, as a clause: "adds a limit on …"."""

_ATTEMPTS = 40


def mutate(program: Program, sampler: Sampler, *, refine: bool = False) -> Change:
    """One change that alters the program and keeps every rule; a fresh sample if none is found in a few tries.

    Args:
        refine: the program is good, so what replaces a whole rule of it is rare.
    """
    weights = {
        name: weight * (_RARELY if refine and name in _REPLACES_A_RULE else 1.0)
        for name, weight in _WEIGHTS.items()
        if program.limits or name not in _OF_THE_QUEUE
    }
    for _ in range(_ATTEMPTS):
        name = sampler.rng.choices(list(weights), weights=list(weights.values()))[0]
        changed = _valid(_OPERATORS[name](program, sampler), program)
        if changed is not None:
            return changed, name
    return sampler.program(), "starts afresh"


def mutate_order(program: Program, sampler: Sampler) -> Change:
    """One change to the order of the queue, of a program that is nothing else."""
    names = {"sets another queue order": 2.0, **{name: _WEIGHTS[name] for name in _OF_EXPRESSIONS}}
    for _ in range(_ATTEMPTS):
        name = sampler.rng.choices(list(names), weights=list(names.values()))[0]
        changed = _valid(_OPERATORS[name](program, sampler), program)
        if changed is not None and changed.order and not (changed.limits or changed.choice):
            return changed, name
    return Program(order=(sampler.order_rank(),)), "starts afresh"


def tune(program: Program, sampler: Sampler) -> Change | None:
    """One constant moved by a log-normal step (or a share of its range); None when there is no constant."""
    if not any(isinstance(site.expr, Const) for site in sites(program)):
        return None
    changed = _valid(_tune(program, sampler), program)
    return None if changed is None else (changed, "tunes a constant")


def cross(first: Program, second: Program, sampler: Sampler) -> Change:
    """Each part of the policy (limits, choice, order) from one parent or the other, and at least one from each."""
    for _ in range(_ATTEMPTS):
        parts = {slot: sampler.rng.choice((first, second)) for slot in ("limits", "choice", "order")}
        child = replace(first, limits=parts["limits"].limits, choice=parts["choice"].choice, order=parts["order"].order)
        if child not in (first, second):
            checked = _valid(child, first)
            if checked is not None:
                taken = [slot for slot, parent in parts.items() if parent is second]
                return checked, f"takes the {' and '.join(_WORDS[slot] for slot in taken)} of another parent"
    return mutate(first, sampler)


_WORDS: Mapping[str, str] = {"limits": "admission limits", "choice": "choice of worker", "order": "queue order"}


def _valid(child: Program | None, parent: Program) -> Program | None:
    if child is None:
        return None
    try:
        child = check(canonical(child))
    except GrammarError:
        return None
    return None if child == parent else child


def _site(program: Program, sampler: Sampler, wanted: Callable[[Site], bool] = lambda site: True) -> Site | None:
    found = [site for site in sites(program) if wanted(site)]
    return sampler.rng.choice(found) if found else None


def _tune(program: Program, sampler: Sampler) -> Program | None:
    site = _site(program, sampler, lambda site: isinstance(site.expr, Const))
    if site is None or not isinstance(site.expr, Const):
        return None
    kind = CONSTANTS[site.expr.kind]
    step = sampler.rng.gauss(0.0, 1.0)
    if kind.logarithmic:
        value = site.expr.value * math.exp(0.6 * step)
    else:
        value = site.expr.value + 0.3 * step * (kind.high - kind.low)
    return put(program, site.path, rounded(kind, value))


def _replace_part(program: Program, sampler: Sampler) -> Program | None:
    site = _site(program, sampler)
    if site is None:
        return None
    return put(program, site.path, sampler.expression(site.unit, site.scopes, depth=1))


def _other_field(program: Program, sampler: Sampler) -> Program | None:
    site = _site(program, sampler, lambda site: isinstance(site.expr, Field))
    if site is None:
        return None
    other = sampler.field(site.unit, site.scopes)
    return None if other is None else put(program, site.path, other)


def _add_term(program: Program, sampler: Sampler) -> Program | None:
    site = _site(program, sampler, lambda site: not isinstance(site.expr, Const))
    if site is None:
        return None
    term = sampler.expression(site.unit, site.scopes, depth=1)
    terms: tuple[Expr, ...] = site.expr.terms if isinstance(site.expr, Sum) else (site.expr,)
    return put(program, site.path, Sum((*terms, term)))


def _drop_term(program: Program, sampler: Sampler) -> Program | None:
    site = _site(program, sampler, lambda site: isinstance(site.expr, Sum))
    if site is None or not isinstance(site.expr, Sum):
        return None
    terms = list(site.expr.terms)
    del terms[sampler.rng.randrange(len(terms))]
    return put(program, site.path, Sum(tuple(terms)) if len(terms) > 1 else terms[0])


def _weigh(program: Program, sampler: Sampler) -> Program | None:
    """A weight on a quantity, or off it."""
    site = _site(program, sampler, lambda site: isinstance(site.expr, Field | Times))
    if site is None:
        return None
    if isinstance(site.expr, Times):
        return put(program, site.path, site.expr.of)
    return put(program, site.path, Times(sampler.constant("weight"), site.expr))


def _add_limit(program: Program, sampler: Sampler) -> Program | None:
    if len(program.limits) >= MAX_LIMITS:
        return None
    return replace(program, limits=(*program.limits, sampler.limit()))


def _new_limit(program: Program, sampler: Sampler) -> Program | None:
    return replace(program, limits=(sampler.limit(),))


def _drop_limit(program: Program, sampler: Sampler) -> Program | None:
    if not program.limits:
        return None
    gone = sampler.rng.randrange(len(program.limits))
    return replace(program, limits=tuple(limit for n, limit in enumerate(program.limits) if n != gone))


def _new_order(program: Program, sampler: Sampler) -> Program | None:
    return replace(program, order=(sampler.order_rank(),))


def _new_choice(program: Program, sampler: Sampler) -> Program | None:
    return replace(program, choice=(sampler.choice_rank(),))


def _add_choice(program: Program, sampler: Sampler) -> Program | None:
    if len(program.choice) >= MAX_RANKS:
        return None
    return replace(program, choice=(*program.choice, sampler.choice_rank()))


def _drop_rank(program: Program, sampler: Sampler) -> Program | None:
    slot = sampler.rng.choice(("choice", "order"))
    ranks = getattr(program, slot)
    if len(ranks) < 2:
        return None
    return with_slot(program, slot, ranks[:-1])


def _turn_round(program: Program, sampler: Sampler) -> Program | None:
    slot = sampler.rng.choice(("choice", "order"))
    ranks = list(getattr(program, slot))
    if not ranks:
        return None
    n = sampler.rng.randrange(len(ranks))
    ranks[n] = Rank(ranks[n].by, not ranks[n].largest_first)
    return with_slot(program, slot, tuple(ranks))


def _other_ties(program: Program, sampler: Sampler) -> Program | None:
    return replace(program, ties="random" if program.ties == "turn" else "turn")


_OPERATORS: Mapping[str, Callable[[Program, Sampler], Program | None]] = {
    "tunes a constant": _tune,
    "replaces a part": _replace_part,
    "reads another quantity": _other_field,
    "adds a term": _add_term,
    "drops a term": _drop_term,
    "changes a weight": _weigh,
    "adds a limit": _add_limit,
    "sets another limit": _new_limit,
    "drops a limit": _drop_limit,
    "sets another queue order": _new_order,
    "sets another choice of worker": _new_choice,
    "adds a tie-break": _add_choice,
    "drops a tie-break": _drop_rank,
    "turns an order round": _turn_round,
    "breaks ties differently": _other_ties,
}
_WEIGHTS: Mapping[str, float] = {
    "tunes a constant": 3.0,
    "replaces a part": 1.5,
    "reads another quantity": 1.5,
    "adds a term": 1.0,
    "drops a term": 1.0,
    "changes a weight": 0.5,
    "adds a limit": 1.5,
    "sets another limit": 1.0,
    "drops a limit": 0.3,
    "sets another queue order": 2.0,
    "sets another choice of worker": 1.0,
    "adds a tie-break": 0.5,
    "drops a tie-break": 0.3,
    "turns an order round": 0.7,
    "breaks ties differently": 0.2,
}
_OF_EXPRESSIONS = ("replaces a part", "reads another quantity", "adds a term", "drops a term", "changes a weight")
_OF_THE_QUEUE = ("sets another queue order", "drops a limit")
"""Changes that change no decision while nothing is ever held."""
_REPLACES_A_RULE = ("sets another limit", "sets another queue order", "turns an order round", "drops a limit")
_RARELY = 0.25
