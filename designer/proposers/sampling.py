"""Programs drawn at random from the grammar: what the control proposes, and what mutation draws new parts from.

The weights are a prior over shapes, not over answers: they say how often a program has a limit, an order or a sum,
and every quantity of the right unit is equally likely.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

from designer.proposers.grammar import (
    Const,
    Difference,
    Expr,
    Field,
    GrammarError,
    Larger,
    Limit,
    Program,
    Rank,
    Share,
    Smaller,
    Sum,
    Times,
    canonical,
    check,
)
from designer.proposers.vocabulary import CONSTANTS, ConstantKind, Scope, Unit, loads_of, quantities_of

_T = TypeVar("_T")
_ALL: tuple[Scope, ...] = ("request", "worker", "pool")
_MEASURABLE: tuple[Unit, ...] = ("tokens", "requests", "fraction", "seconds")

_THRESHOLDS: dict[Unit, str] = {
    "tokens": "most_tokens",
    "requests": "most_requests",
    "seconds": "most_seconds",
    "fraction": "most_used_share",
}
_CAPACITY: dict[Unit, str] = {"tokens": "worker.kv_capacity_tokens", "requests": "worker.max_num_seqs"}


def random_program(rng: random.Random) -> Program:
    """An independent sample of the grammar; drawn again until it keeps every rule.

    A program without a limit never holds a request while a worker is there, so it is drawn without an order.
    """
    while True:
        limits = tuple(random_limit(rng) for _ in range(_pick(rng, {0: 3, 1: 6, 2: 1})))
        orders = _pick(rng, {0: 2, 1: 7, 2: 1}) if limits else 0
        program = Program(
            limits=limits,
            choice=tuple(random_choice_rank(rng) for _ in range(_pick(rng, {1: 7, 2: 2}))),
            ties=_pick(rng, {"turn": 1, "random": 1}),
            order=tuple(random_order_rank(rng) for _ in range(orders)),
        )
        try:
            return check(canonical(program))
        except GrammarError:
            continue


def random_limit(rng: random.Random) -> Limit:
    unit: Unit = _pick(rng, {"tokens": 5, "requests": 3, "fraction": 2, "seconds": 1})
    demand = random_load(rng, unit)
    threshold = random_constant(rng, _THRESHOLDS[unit])
    if unit in _CAPACITY and rng.random() < 0.8:
        return Limit(demand, Times(random_constant(rng, "usable_share"), Field(_CAPACITY[unit])))
    return Limit(demand, threshold)


def random_load(rng: random.Random, unit: Unit) -> Expr:
    """An expression that reads the load of a worker: at most three terms."""
    base: Expr = Field(rng.choice(loads_of(unit)))
    count = _pick(rng, {0: 3, 1: 3, 2: 2}) if unit in ("tokens", "seconds") else _pick(rng, {0: 8, 1: 2})
    more = [_term(rng, unit, _ALL if rng.random() < 0.1 else ("request", "worker")) for _ in range(count)]
    return Sum((base, *more)) if more else base


def random_choice_rank(rng: random.Random) -> Rank:
    unit: Unit = _pick(rng, {"tokens": 4, "requests": 3, "fraction": 2, "seconds": 1})
    load = random_load(rng, unit)
    if unit in _CAPACITY and rng.random() < 0.2:
        return Rank(Share(load, Field(_CAPACITY[unit])), rng.random() < 0.1)
    return Rank(load, rng.random() < 0.1)


def random_order_rank(rng: random.Random) -> Rank:
    """By tokens of the request, aged or not, or by its arrival; largest first now and then."""
    if rng.random() < 0.15:
        return Rank(Field("request.arrival_time"), rng.random() < 0.5)
    size = random_expression(rng, "tokens", ("request",), depth=1)
    if rng.random() < 0.3:
        ageing = Times(random_constant(rng, "ageing"), Field("request.arrival_time"))
        return Rank(Sum((size, ageing)), False)
    return Rank(size, rng.random() < 0.3)


def random_expression(rng: random.Random, unit: Unit, scopes: Sequence[Scope], depth: int = 2) -> Expr:
    """Any expression of this unit over these scopes, at most ``depth`` operations deep."""
    fields = quantities_of(unit, tuple(scopes))
    shape = _pick(rng, {"field": 6, "sum": 2, "term": 2, "larger": 1, "smaller": 1, "difference": 1})
    if depth <= 0 or shape == "field" or not fields:
        return Field(rng.choice(fields)) if fields else random_constant(rng, _constant_for(rng, unit))
    if shape == "term":
        return _term(rng, unit, scopes)
    parts = [random_expression(rng, unit, scopes, depth - 1) for _ in range(2)]
    if shape == "sum":
        return Sum(tuple(parts))
    pair = Larger if shape == "larger" else Smaller if shape == "smaller" else Difference
    return pair(parts[0], parts[1])


def random_constant(rng: random.Random, name: str) -> Const:
    """Of the kind's range: the middle of what spans orders of magnitude, the upper part of a share, most often."""
    kind = CONSTANTS[name]
    if kind.logarithmic:
        low, high = math.log(kind.low), math.log(kind.high)
        value = math.exp(rng.triangular(low, high))
    else:
        value = rng.triangular(kind.low, kind.high, kind.low + 0.75 * (kind.high - kind.low))
    return rounded(kind, value)


def rounded(kind: ConstantKind, value: float) -> Const:
    """Three significant digits, inside the range: what a person would write."""
    value = min(max(value, kind.low), kind.high)
    return Const(kind.name, min(max(float(f"{value:.3g}"), kind.low), kind.high))


def _term(rng: random.Random, unit: Unit, scopes: Sequence[Scope]) -> Expr:
    """A quantity, as it is, weighted, or converted from another unit."""
    converted = _converted(rng, unit, tuple(scopes)) if rng.random() < 0.2 else None
    if converted is not None:
        return converted
    fields = quantities_of(unit, tuple(scopes))
    term: Expr = Field(rng.choice(fields)) if fields else random_constant(rng, _constant_for(rng, unit))
    if rng.random() < 0.4:
        return Times(random_constant(rng, rng.choice(("reserve_ratio", "weight"))), term)
    return term


def _converted(rng: random.Random, unit: Unit, scopes: tuple[Scope, ...]) -> Expr | None:
    """Requests as tokens, or tokens as the seconds a worker takes to decode them."""
    if unit == "tokens" and quantities_of("requests", scopes):
        return Times(random_constant(rng, "tokens_each"), Field(rng.choice(quantities_of("requests", scopes))))
    if unit == "seconds" and "worker" in scopes:
        return Times(Field("worker.tpot_ewma"), Field(rng.choice(quantities_of("tokens", scopes))))
    return None


def _constant_for(rng: random.Random, unit: Unit) -> str:
    return rng.choice([kind.name for kind in CONSTANTS.values() if kind.unit == unit] or ["weight"])


def _pick(rng: random.Random, weights: dict[_T, int]) -> _T:
    return rng.choices(list(weights), weights=list(weights.values()))[0]
