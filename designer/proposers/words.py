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
            return f"{phrase(left)} minus {_grouped(right)}"
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
    choice = _choice_words(program.choice)
    if not program.limits:
        return f"Dispatch at once, to {choice}."
    return f"Hold what fits no worker; {_order_words(program.order)}; to {choice}."


def paragraphs(program: Program) -> list[str]:
    """The rules one by one."""
    return [_admission(program.limits), _choice(program), _order(program), _idle(program)]


def why(program: Program) -> str:
    """The reason to expect an effect, from the parts the program has."""
    reasons = []
    if program.limits:
        reasons.append(
            "a request that waits here waits in no engine: engines that are full need not preempt what they have "
            "begun and compute it again, and the request can still go to whichever worker has room first."
        )
        if _by_size(program.order):
            reasons.append(
                "A queue held here can also be ordered: with short requests first, most pass the few long ones, "
                "which lowers the mean time in the system."
            )
    else:
        reasons.append("every request starts at once where, by this measure, it has least before it.")
    if any(_seeks_cached(rank) for rank in program.choice):
        reasons.append(
            "Prompt tokens that a worker has cached are not prefilled again, so a request costs least where its "
            "beginning was seen."
        )
    if _ages(program):
        reasons.append("Waiting counts in favour of a request, so a long one is not passed over for ever.")
    return " ".join([f"{reasons[0][0].upper()}{reasons[0][1:]}", *reasons[1:]])


def _grouped(expr: Expr) -> str:
    return f"({phrase(expr)})" if isinstance(expr, Sum | Difference | Share) else phrase(expr)


def _admission(limits: Sequence[Limit]) -> str:
    if not limits:
        return "Admission: a request is never held while a worker is there."
    tests = "; and ".join(f"{phrase(limit.demand)}, at most {phrase(limit.budget)}" for limit in limits)
    within = "this limit" if len(limits) == 1 else "these limits"
    return f"Admission: a worker may take a request within {within}: {tests}. With no such worker the request is held."


def _choice(program: Program) -> str:
    at_random = program.ties == "random"
    if not program.choice:
        return f"Choice: {'any' if at_random else 'each in turn'} of the workers that may take it."
    ties = "one of them at random" if at_random else "each in turn"
    return f"Choice: of the workers that may take it, {_ranks(program.choice)}; among equals {ties}."


def _order(program: Program) -> str:
    if not program.order:
        return "Queue order: first come first served."
    when = "" if program.limits else " (while there is no worker to ask for)"
    return f"Queue order{when}: {_ranks(program.order)}; then by arrival."


def _ranks(ranks: Sequence[Rank]) -> str:
    return ", then ".join(_rank(rank) for rank in ranks)


def _rank(rank: Rank) -> str:
    """Which comes first. Times of arrival are early or late, and nothing else is."""
    if _is_arrival(rank.by):
        return "latest arrival first" if rank.largest_first else "earliest arrival first"
    return f"{'highest' if rank.largest_first else 'lowest'} first by {phrase(rank.by)}"


def _is_arrival(expr: Expr) -> bool:
    return isinstance(expr, Field) and expr.name == "request.arrival_time"


def _idle(program: Program) -> str:
    if not program.limits:
        return ""
    return "An idle worker takes anything, and a limit on a capacity that is not known does not bind."


def _choice_words(choice: Sequence[Rank]) -> str:
    if not choice:
        return "any worker that may take it"
    return f"the worker with {'most' if choice[0].largest_first else 'least'} {_short(choice[0].by)}"


def _order_words(order: Sequence[Rank]) -> str:
    if not order:
        return "first come first served"
    if _is_arrival(order[0].by):
        return f"{'latest' if order[0].largest_first else 'earliest'} first"
    return f"{'most' if order[0].largest_first else 'least'} {_short(order[0].by)} first"


def _short(expr: Expr) -> str:
    """The first quantity of an expression, by the contract's name: a title has no room for more."""
    names = [node.name.partition(".")[2] for node in walk(expr) if isinstance(node, Field)]
    return names[0].removeprefix("num_").replace("_", " ").replace("kv", "KV") if names else phrase(expr)


def _by_size(order: Sequence[Rank]) -> bool:
    """Whether short requests come before long ones."""
    if not order or order[0].largest_first:
        return False
    return any(isinstance(node, Field) and node.name == "request.num_prompt_tokens" for node in walk(order[0].by))


def _seeks_cached(rank: Rank) -> bool:
    """Whether a worker comes sooner the more of the request is cached there."""
    preferred = rank.by if rank.largest_first else rank.by.right if isinstance(rank.by, Difference) else None
    return preferred is not None and _reads_cached(preferred)


def _reads_cached(expr: Expr) -> bool:
    return any(isinstance(node, Field) and node.name == "candidate.num_cached_tokens" for node in walk(expr))


def _ages(program: Program) -> bool:
    nodes = (node for path, expr in expressions(program) if path[0] == "order" for node in walk(expr))
    return any(isinstance(node, Const) and node.kind == "ageing" for node in nodes)
