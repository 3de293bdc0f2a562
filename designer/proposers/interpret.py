"""What a program decides, straight from its tree: the meaning that emitted policies are tested against."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from designer.proposers.grammar import (
    Const,
    Difference,
    Expr,
    Field,
    Larger,
    Limit,
    Program,
    Rank,
    Share,
    Smaller,
    Sum,
    Times,
    reads_capacity,
)
from designer.proposers.vocabulary import QUANTITIES, Number
from policies.contract import Candidate, Pool, Request, Rng, Worker

_NOBODY = Candidate(Worker("nobody"))
_NOWHERE = Pool("nowhere")


Reader = Callable[[Request, Candidate, Pool], Number]
_COMBINED: Mapping[type[Expr], Callable[[Number, Number], Number]] = {
    Difference: operator.sub,
    Times: operator.mul,
    Larger: max,
    Smaller: min,
    Share: lambda part, whole: part / max(whole, 1),
}


def reader(expr: Expr) -> Reader:
    """What gives the number an expression stands for; sums go from left to right."""
    match expr:
        case Field(name):
            return QUANTITIES[name].read
        case Const(_, value):
            return lambda request, candidate, pool: value
        case Sum(terms):
            return _total([reader(term) for term in terms])
    left, right = map(reader, _operands(expr))
    combined = _COMBINED[type(expr)]
    return lambda request, candidate, pool: combined(left(request, candidate, pool), right(request, candidate, pool))


class Router:
    """The routing of a program with what it remembers: whose turn it is among equals."""

    def __init__(self, program: Program, rng: Rng) -> None:
        self._program = program
        self._limits = [_Limit(limit) for limit in program.limits]
        self._choice = _ranking(program.choice)
        self._rng = rng
        self._turn = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        """The candidate the program picks, or None to hold."""
        start = self._turn % len(candidates) if self._program.ties == "turn" else 0
        in_turn = [*candidates[start:], *candidates[:start]]
        able = [c for c in in_turn if self._may_take(request, c, pool)]
        if not able:
            return None
        self._turn = start + 1
        scores = [self._choice(request, c, pool) for c in able]
        best = min(scores)
        tied = [c for c, score in zip(able, scores, strict=True) if score == best]
        return self._rng.choice(tied) if self._program.ties == "random" else tied[0]

    def _may_take(self, request: Request, candidate: Candidate, pool: Pool) -> bool:
        """Whether every limit lets this candidate take the request."""
        if candidate.worker.num_inflight_requests == 0:
            return True
        return all(limit.lets(request, candidate, pool) for limit in self._limits)


def order_key(program: Program) -> Callable[[Request], tuple[Number, ...]]:
    """Smallest first among the held; ends with the arrival time."""
    ranking = _ranking(program.order)
    return lambda request: (*ranking(request, _NOBODY, _NOWHERE), request.arrival_time)


class _Limit:
    def __init__(self, limit: Limit) -> None:
        names = (*reads_capacity(limit.demand), *reads_capacity(limit.budget))
        self._may_be_unknown = [QUANTITIES[name].read for name in names]
        self._demand, self._budget = reader(limit.demand), reader(limit.budget)

    def lets(self, request: Request, candidate: Candidate, pool: Pool) -> bool:
        """A limit on a capacity that is not known (0) does not bind."""
        if any(read(request, candidate, pool) == 0 for read in self._may_be_unknown):
            return True
        return self._demand(request, candidate, pool) <= self._budget(request, candidate, pool)


def _total(parts: Sequence[Reader]) -> Reader:
    first, *rest = parts

    def total(request: Request, candidate: Candidate, pool: Pool) -> Number:
        result = first(request, candidate, pool)
        for part in rest:
            result = result + part(request, candidate, pool)
        return result

    return total


def _operands(expr: Difference | Times | Larger | Smaller | Share) -> tuple[Expr, Expr]:
    match expr:
        case Times(factor, of):
            return factor, of
        case Share(part, whole):
            return part, whole
        case _:
            return expr.left, expr.right


def _ranking(ranks: Sequence[Rank]) -> Callable[[Request, Candidate, Pool], tuple[Number, ...]]:
    readers = [(rank.largest_first, reader(rank.by)) for rank in ranks]

    def ranking(request: Request, candidate: Candidate, pool: Pool) -> tuple[Number, ...]:
        values = [(largest_first, read(request, candidate, pool)) for largest_first, read in readers]
        return tuple([-value if largest_first else value for largest_first, value in values])

    return ranking
