"""Random programs: how often each part of a policy is drawn. The control draws from here, and mutation draws parts.

The distribution says what kinds of rule exist, in the words of queueing and not of any published policy: a limit is on
what a worker holds, projected or not, against what it can hold; an order is by what a request costs, or by age; a
choice is by load. Which of them, with which terms and constants, is drawn at random.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence, Set
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
from designer.proposers.vocabulary import CONSTANTS, QUANTITIES, ConstantKind, Scope, Unit

_T = TypeVar("_T")
_ALL: tuple[Scope, ...] = ("request", "worker", "pool")

_THRESHOLDS: dict[Unit, str] = {
    "tokens": "most_tokens",
    "requests": "most_requests",
    "fraction": "most_used_share",
}
_CACHED = "candidate.num_cached_tokens"
_CAPACITY: dict[Unit, str] = {"tokens": "worker.kv_capacity_tokens", "requests": "worker.max_num_seqs"}


class Sampler:
    """Draws parts of programs with ``rng``, from the quantities that are offered."""

    def __init__(self, rng: random.Random, offered: Set[str] = frozenset(QUANTITIES)) -> None:
        self.rng = rng
        self._offered = tuple(name for name in QUANTITIES if name in offered)

    # -- whole programs and rules ---------------------------------------------------------------------------------

    def program(self) -> Program:
        """An independent sample of the grammar; drawn again until it keeps every rule.

        A program without a limit never holds a request while a worker is there, so it is drawn without an order.
        """
        while True:
            limits = tuple(self.limit() for _ in range(self.pick({0: 1, 1: 6, 2: 2})))
            orders = self.pick({0: 1, 1: 8, 2: 1}) if limits else 0
            program = Program(
                limits=limits,
                choice=tuple(self.choice_rank() for _ in range(self.pick({1: 7, 2: 2}))),
                ties=self.pick({"turn": 1, "random": 1}),
                order=tuple(self.order_rank() for _ in range(orders)),
            )
            try:
                return check(canonical(program))
            except GrammarError:
                continue

    def limit(self) -> Limit:
        """On what a worker holds (projected, at times), in tokens as a share of its memory more often than not."""
        unit = self._loaded_unit({"tokens": 6, "requests": 2, "fraction": 2})
        demand = self.projected_tokens() if unit == "tokens" else self.load(unit)
        capacity = _CAPACITY.get(unit, "")
        if capacity in self._offered and self.rng.random() < (0.85 if unit == "tokens" else 0.5):
            return Limit(demand, Times(self.constant("usable_share"), Field(capacity)))
        return Limit(demand, self.constant(_THRESHOLDS[unit]))

    def projected_tokens(self) -> Expr:
        """Tokens a worker holds, and at times what the request would add and what all of them may yet grow by."""
        terms: list[Expr] = [Field(self.rng.choice(self._loads("tokens")))]
        if self.rng.random() < 0.5:
            terms.append(self._weighed(Field(self.rng.choice(self._names("tokens", ("request",)))), 0.3))
        if self.rng.random() < 0.4:
            terms.append(self.term("tokens", ("worker",)))
        if self.rng.random() < 0.15:
            terms.append(self.term("tokens", _ALL))
        return Sum(tuple(terms)) if len(terms) > 1 else terms[0]

    def load(self, unit: Unit) -> Expr:
        """An expression that reads the load of a worker: at most three terms."""
        base: Expr = Field(self.rng.choice(self._loads(unit)))
        count = self.pick({0: 3, 1: 3, 2: 1}) if unit in ("tokens", "seconds") else self.pick({0: 8, 1: 2})
        scopes = _ALL if self.rng.random() < 0.1 else ("request", "worker")
        more = [self.term(unit, scopes) for _ in range(count)]
        return Sum((base, *more)) if more else base

    def choice_rank(self) -> Rank:
        """By load, at times as a share of what a worker can hold; often less what is cached, where that matters."""
        if _CACHED in self._offered and self.rng.random() < 0.1:
            return Rank(Field(_CACHED), True)
        unit = self._loaded_unit({"tokens": 4, "requests": 4, "fraction": 1, "seconds": 1})
        load = self.load(unit)
        if unit == "tokens" and _CACHED in self._offered and self.rng.random() < 0.5:
            return Rank(Difference(load, self._weighed(Field(_CACHED), 0.5)), False)
        if _CAPACITY.get(unit) in self._offered and self.rng.random() < 0.15:
            return Rank(Share(load, Field(_CAPACITY[unit])), self.rng.random() < 0.1)
        return Rank(load, self.rng.random() < 0.1)

    def order_rank(self) -> Rank:
        """By tokens of the request, aged or not, or by its arrival; largest first now and then."""
        if self.rng.random() < 0.1:
            return Rank(Field("request.arrival_time"), self.rng.random() < 0.5)
        size = self.expression("tokens", ("request",), depth=1)
        if self.rng.random() < 0.3:
            ageing = Times(self.constant("ageing"), Field("request.arrival_time"))
            return Rank(Sum((size, ageing)), False)
        return Rank(size, self.rng.random() < 0.2)

    # -- expressions ----------------------------------------------------------------------------------------------

    def expression(self, unit: Unit, scopes: Sequence[Scope], depth: int = 2) -> Expr:
        """Any expression of this unit over these scopes, at most ``depth`` operations deep."""
        fields = self._names(unit, scopes)
        shape = self.pick({"field": 6, "sum": 2, "term": 2, "larger": 0.5, "smaller": 0.5, "difference": 0.5})
        if depth <= 0 or shape == "field" or not fields:
            return Field(self.rng.choice(fields)) if fields else self.constant(self._constant_for(unit))
        if shape == "term":
            return self.term(unit, scopes)
        parts = [self.expression(unit, scopes, depth - 1) for _ in range(2)]
        if shape == "sum":
            return Sum(tuple(parts))
        pair = Larger if shape == "larger" else Smaller if shape == "smaller" else Difference
        return pair(parts[0], parts[1])

    def term(self, unit: Unit, scopes: Sequence[Scope]) -> Expr:
        """A quantity, as it is, weighted, or converted from another unit."""
        converted = self._converted(unit, scopes) if self.rng.random() < 0.3 else None
        if converted is not None:
            return converted
        fields = self._names(unit, scopes)
        if not fields:
            return self.constant(self._constant_for(unit))
        return self._weighed(Field(self.rng.choice(fields)), 0.5)

    def constant(self, name: str) -> Const:
        """Of the kind's range: the middle of what spans orders of magnitude, the upper part of a share, most often."""
        kind = CONSTANTS[name]
        if kind.logarithmic:
            value = math.exp(self.rng.triangular(math.log(kind.low), math.log(kind.high)))
        else:
            value = self.rng.triangular(kind.low, kind.high, kind.low + 0.75 * (kind.high - kind.low))
        return rounded(kind, value)

    def field(self, unit: Unit, scopes: Sequence[Scope]) -> Field | None:
        """Any quantity of this unit and these scopes; None when none is offered."""
        names = self._names(unit, scopes)
        return Field(self.rng.choice(names)) if names else None

    def pick(self, weights: dict[_T, float]) -> _T:
        return self.rng.choices(list(weights), weights=list(weights.values()))[0]

    def _loaded_unit(self, weights: dict[Unit, float]) -> Unit:
        """One in which the load of a worker is offered."""
        return self.pick({unit: weight for unit, weight in weights.items() if self._loads(unit)})

    def _weighed(self, field: Expr, how_often: float) -> Expr:
        if self.rng.random() >= how_often:
            return field
        return Times(self.constant(self.rng.choice(("reserve_ratio", "weight"))), field)

    def _converted(self, unit: Unit, scopes: Sequence[Scope]) -> Expr | None:
        """Requests as tokens, or tokens as the seconds a worker takes to decode them."""
        requests = self._names("requests", scopes)
        if unit == "tokens" and requests:
            each = self._names("tokens_per_request", ("pool",))
            count = Field(self.rng.choice(requests))
            if each and self.rng.random() < 0.3:
                return self._weighed(Times(Field(self.rng.choice(each)), count), 0.5)
            return Times(self.constant("tokens_each"), count)
        if unit == "seconds" and "worker" in scopes and "worker.tpot_ewma" in self._offered:
            return Times(Field("worker.tpot_ewma"), Field(self.rng.choice(self._names("tokens", scopes))))
        return None

    def _constant_for(self, unit: Unit) -> str:
        return self.rng.choice([kind.name for kind in CONSTANTS.values() if kind.unit == unit] or ["weight"])

    def _names(self, unit: Unit, scopes: Sequence[Scope]) -> list[str]:
        return [n for n in self._offered if QUANTITIES[n].unit == unit and QUANTITIES[n].scope in scopes]

    def _loads(self, unit: Unit) -> list[str]:
        return [n for n in self._offered if QUANTITIES[n].unit == unit and QUANTITIES[n].is_load]


def random_program(rng: random.Random) -> Program:
    """An independent sample over all quantities."""
    return Sampler(rng).program()


def rounded(kind: ConstantKind, value: float) -> Const:
    """Three significant digits, inside the range: what a person would write."""
    value = min(max(value, kind.low), kind.high)
    return Const(kind.name, min(max(float(f"{value:.3g}"), kind.low), kind.high))
