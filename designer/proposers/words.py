"""A program in words: what its docstring says it does, and why that should help."""

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
    expressions,
    walk,
)
from designer.proposers.vocabulary import QUANTITIES


def phrase(expr: Expr) -> str:
    """An expression as a noun phrase."""
    match expr:
        case Field(name):
            return QUANTITIES[name].words
        case Const(_, value):
            return f"{value:g}"
        case Sum(terms):
            return " plus ".join(phrase(term) for term in terms)
        case Difference(left, right):
            return f"{phrase(left)} less {_grouped(right)}"
        case Times(factor, of):
            return f"{_grouped(factor)} times {_grouped(of)}"
        case Larger(left, right):
            return f"the larger of ({phrase(left)}) and ({phrase(right)})"
        case Smaller(left, right):
            return f"the smaller of ({phrase(left)}) and ({phrase(right)})"
        case Share(part, whole):
            return f"{_grouped(part)} as a share of {_grouped(whole)}"


def title(program: Program) -> str:
    """One line: what kind of policy it is."""
    holds = "Hold what no worker has room for" if program.limits else "Dispatch at once"
    order = f"; {_order_words(program.order)}" if program.limits else ""
    return f"{holds}{order}; {_choice_words(program.choice)}."


def paragraphs(program: Program) -> list[str]:
    """The rules one by one."""
    return [_admission(program.limits), _choice(program), _order(program), _idle(program)]


def why(program: Program) -> str:
    """The reason to expect an effect, from the parts the program has."""
    reasons = []
    if program.limits:
        reasons.append(
            "A request that waits here waits in no engine, so engines that are full need not preempt what they "
            "have begun and compute it again, and it can still go to whichever worker has room first"
        )
        if _by_size(program.order):
            reasons.append(
                "and a queue held here can be ordered: with short requests first, most pass the few long ones, "
                "which lowers the mean time in the system"
            )
    else:
        reasons.append("Every request starts at once where, by this measure, it has least before it")
    if _ages(program):
        reasons.append("waiting counts in favour of a request, so a long one is not passed over for ever")
    return "; ".join(reasons) + "."


def _grouped(expr: Expr) -> str:
    return f"({phrase(expr)})" if isinstance(expr, Sum | Difference | Share) else phrase(expr)


def _admission(limits: Sequence[Limit]) -> str:
    if not limits:
        return "Admission: a request is never held while a worker is there."
    tests = ", and ".join(f"{phrase(limit.demand)} is at most {phrase(limit.budget)}" for limit in limits)
    return f"Admission: a worker may take a request while {tests}. With no such worker the request is held."


def _choice(program: Program) -> str:
    ties = "any at random" if program.ties == "random" else "they take turns"
    if not program.choice:
        return f"Choice: of the workers that may take it, {ties}."
    ranks = ", then ".join(
        f"the {'most' if rank.largest_first else 'least'} of {phrase(rank.by)}" for rank in program.choice
    )
    return f"Choice: of the workers that may take it, the one with {ranks}; among equals {ties}."


def _order(program: Program) -> str:
    if not program.order:
        return "Queue order: first come first served."
    ranks = ", then ".join(
        f"{'largest' if rank.largest_first else 'smallest'} first by {phrase(rank.by)}" for rank in program.order
    )
    when = "" if program.limits else " (while there is no worker to ask for)"
    return f"Queue order{when}: {ranks}; then by arrival."


def _idle(program: Program) -> str:
    if not program.limits:
        return ""
    return "An idle worker takes anything, and a limit on a capacity that is not known does not bind."


def _choice_words(choice: Sequence[Rank]) -> str:
    if not choice:
        return "any worker that may take it"
    return f"to the worker with the {'most' if choice[0].largest_first else 'least'} of {_short(choice[0].by)}"


def _order_words(order: Sequence[Rank]) -> str:
    if not order:
        return "first come first served"
    return f"{'largest' if order[0].largest_first else 'smallest'} {_short(order[0].by)} first"


def _short(expr: Expr) -> str:
    """The first two quantities of an expression, without what is done to them."""
    names = [node.name.partition(".")[2].replace("_", " ") for node in walk(expr) if isinstance(node, Field)]
    distinct = list(dict.fromkeys(name.removeprefix("num ") for name in names))
    return " and ".join(distinct[:2]) + (" …" if len(distinct) > 2 else "")


def _by_size(order: Sequence[Rank]) -> bool:
    """Whether short requests come before long ones."""
    if not order or order[0].largest_first:
        return False
    return any(isinstance(node, Field) and node.name == "request.num_prompt_tokens" for node in walk(order[0].by))


def _ages(program: Program) -> bool:
    nodes = (node for path, expr in expressions(program) if path[0] == "order" for node in walk(expr))
    return any(isinstance(node, Const) and node.kind == "ageing" for node in nodes)
