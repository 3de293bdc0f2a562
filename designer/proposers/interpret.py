"""What a program decides, straight from its tree: the meaning that emitted policies are tested against."""

from __future__ import annotations

from collections.abc import Sequence

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
from designer.proposers.vocabulary import QUANTITIES, Number, Quantity
from policies.contract import Candidate, Pool, Request, Rng, Worker

_NOBODY = Candidate(Worker("nobody"))
_NOWHERE = Pool("nowhere")


def evaluate(expr: Expr, request: Request, candidate: Candidate, pool: Pool) -> Number:
    """The number an expression stands for; sums go from left to right."""
    match expr:
        case Field(name):
            return QUANTITIES[name].read(request, candidate, pool)
        case Const(_, value):
            return value
        case Sum(terms):
            total = evaluate(terms[0], request, candidate, pool)
            for term in terms[1:]:
                total = total + evaluate(term, request, candidate, pool)
            return total
    left, right = _operands(expr)
    a = evaluate(left, request, candidate, pool)
    b = evaluate(right, request, candidate, pool)
    match expr:
        case Difference():
            return a - b
        case Times():
            return a * b
        case Larger():
            return max(a, b)
        case Smaller():
            return min(a, b)
        case Share():
            return a / max(b, 1)


class Router:
    """The routing of a program with what it remembers: whose turn it is among equals."""

    def __init__(self, program: Program, rng: Rng) -> None:
        self._program = program
        self._limits = [(limit, _may_be_unknown(limit)) for limit in program.limits]
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
        scores = [_rank_values(self._program.choice, request, c, pool) for c in able]
        best = min(scores)
        tied = [c for c, score in zip(able, scores, strict=True) if score == best]
        return self._rng.choice(tied) if self._program.ties == "random" else tied[0]

    def _may_take(self, request: Request, candidate: Candidate, pool: Pool) -> bool:
        """Whether every limit lets this candidate take the request."""
        if candidate.worker.num_inflight_requests == 0:
            return True
        return all(_within(limit, unknown, request, candidate, pool) for limit, unknown in self._limits)


def order_key(program: Program, request: Request) -> tuple[Number, ...]:
    """Smallest first among the held; ends with the arrival time."""
    return (*_rank_values(program.order, request, _NOBODY, _NOWHERE), request.arrival_time)


def _operands(expr: Difference | Times | Larger | Smaller | Share) -> tuple[Expr, Expr]:
    match expr:
        case Times(factor, of):
            return factor, of
        case Share(part, whole):
            return part, whole
        case _:
            return expr.left, expr.right


def _may_be_unknown(limit: Limit) -> Sequence[Quantity]:
    """With any of these at 0 the limit does not bind."""
    return [QUANTITIES[name] for name in (*reads_capacity(limit.demand), *reads_capacity(limit.budget))]


def _within(limit: Limit, unknown: Sequence[Quantity], request: Request, candidate: Candidate, pool: Pool) -> bool:
    if any(quantity.read(request, candidate, pool) == 0 for quantity in unknown):
        return True
    return evaluate(limit.demand, request, candidate, pool) <= evaluate(limit.budget, request, candidate, pool)


def _rank_values(ranks: Sequence[Rank], request: Request, candidate: Candidate, pool: Pool) -> tuple[Number, ...]:
    values = ((rank.largest_first, evaluate(rank.by, request, candidate, pool)) for rank in ranks)
    return tuple(-value if largest_first else value for largest_first, value in values)
