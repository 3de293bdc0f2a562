"""A grammar of batch rules, inside the engine: who is admitted first, who is preempted first, how much is prefilled.

An order is a sum of weighted quantities of a request, priority before it or not, smallest first; requests that are
equal go by arrival. The victim is the largest of such a sum. The prefill of a step is all it may be, or a share of it:
always, while many requests run, or while few blocks are free.

The vocabulary is what the contract shows of a request and of the engine, and no more: the final length is not there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from designer.proposers.grammar import Const, GrammarError
from designer.proposers.sampling import rounded
from designer.proposers.vocabulary import ConstantKind
from policies.contract import BatchRequest

MAX_TERMS = 3
BudgetKind = Literal["full", "share", "share_when_busy", "share_when_scarce"]
BUDGETS: tuple[BudgetKind, ...] = get_args(BudgetKind)


@dataclass(frozen=True, slots=True)
class BatchQuantity:
    """A number of a request inside the engine."""

    name: str
    words: str
    code: str
    read: Callable[[BatchRequest], float]
    weight: str
    """A key of ``CONSTANTS``: of the weight it may have, or must."""
    needs_weight: bool = False
    """Beside another, as it is no count of tokens."""


_QUANTITIES = (
    BatchQuantity(
        "num_prompt_tokens",
        "its prompt tokens",
        "request.num_prompt_tokens",
        lambda request: request.num_prompt_tokens,
        "prompt_weight",
    ),
    BatchQuantity(
        "num_tokens_to_compute",
        "the tokens it has still to prefill",
        "request.num_prompt_tokens + request.num_output_tokens - request.num_computed_tokens",
        lambda request: request.num_prompt_tokens + request.num_output_tokens - request.num_computed_tokens,
        "compute_weight",
    ),
    BatchQuantity(
        "num_output_tokens",
        "the tokens it has made",
        "request.num_output_tokens",
        lambda request: request.num_output_tokens,
        "output_weight",
    ),
    BatchQuantity(
        "num_computed_tokens",
        "the tokens it holds in the KV cache",
        "request.num_computed_tokens",
        lambda request: request.num_computed_tokens,
        "held_weight",
    ),
    BatchQuantity(
        "arrival_time",
        "its arrival time",
        "request.arrival_time",
        lambda request: request.arrival_time,
        "tokens_per_second",
        needs_weight=True,
    ),
    BatchQuantity(
        "num_preemptions",
        "its preemptions",
        "request.num_preemptions",
        lambda request: request.num_preemptions,
        "tokens_per_preemption",
        needs_weight=True,
    ),
)
BATCH_QUANTITIES: Mapping[str, BatchQuantity] = {quantity.name: quantity for quantity in _QUANTITIES}
CONSTANTS: Mapping[str, ConstantKind] = {
    kind.name: kind
    for kind in (
        ConstantKind("prompt_weight", "fraction", 0.05, 20.0, True, "how much a prompt token counts"),
        ConstantKind("compute_weight", "fraction", 0.05, 20.0, True, "how much a token still to prefill counts"),
        ConstantKind("output_weight", "fraction", 0.05, 20.0, True, "how much a token that was made counts"),
        ConstantKind("held_weight", "fraction", 0.05, 20.0, True, "how much a token in the KV cache counts"),
        ConstantKind("tokens_per_second", "tokens_per_second", 0.01, 1000.0, True, "tokens a second later counts for"),
        ConstantKind("tokens_per_preemption", "tokens", 1.0, 4096.0, True, "tokens a preemption counts for"),
        ConstantKind("prefill_share", "fraction", 0.02, 1.0, True, "share of a step that prompts may take"),
        ConstantKind("busy_requests", "requests", 2.0, 256.0, True, "running requests from which a step is shared"),
        ConstantKind("scarce_share", "fraction", 0.01, 0.9, True, "share of free blocks below which a step is shared"),
    )
}
_OF_BUDGETS: Mapping[BudgetKind, tuple[str, ...]] = {
    "full": (),
    "share": ("prefill_share",),
    "share_when_busy": ("prefill_share", "busy_requests"),
    "share_when_scarce": ("prefill_share", "scarce_share"),
}


@dataclass(frozen=True, slots=True)
class Term:
    name: str
    """A key of ``BATCH_QUANTITIES``."""
    weight: Const | None = None
    """None: as it is."""
    less: bool = False
    """It is taken away."""


@dataclass(frozen=True, slots=True)
class Order:
    terms: tuple[Term, ...] = ()
    """None: by arrival alone."""
    priority_first: bool = False


@dataclass(frozen=True, slots=True)
class BatchProgram:
    waiting: Order = Order()
    """Smallest is admitted first."""
    victim: Order = Order()
    """Largest is preempted first."""
    budget: BudgetKind = "full"
    limits: tuple[Const, ...] = ()
    """What ``budget`` reads."""


ENGINE_FCFS = BatchProgram()
"""vLLM's own: first come first served, the last to arrive is the victim, a step may be all prefill."""
ENGINE_PRIORITY = BatchProgram(Order(priority_first=True), Order(priority_first=True))
"""vLLM's ``--scheduling-policy priority``."""


def constants(program: BatchProgram) -> dict[tuple[str, str], Const]:
    """By (``waiting``, ``victim`` or ``budget``; its name there)."""
    found = {
        (side, term.name): term.weight
        for side in ("waiting", "victim")
        for term in _order(program, side).terms
        if term.weight is not None
    }
    return found | {("budget", constant.kind): constant for constant in program.limits}


def parameter_name(key: tuple[str, str], constant: Const) -> str:
    """Of the emitted module."""
    return constant.kind if key[0] == "budget" else f"{key[0]}_{constant.kind}"


def with_constants(program: BatchProgram, values: Mapping[tuple[str, str], Const]) -> BatchProgram:
    """The program with some of its constants replaced."""
    sides = {}
    for side in ("waiting", "victim"):
        order = _order(program, side)
        terms = (replace(term, weight=values.get((side, term.name), term.weight)) for term in order.terms)
        sides[side] = replace(order, terms=tuple(terms))
    limits = tuple(values.get(("budget", constant.kind), constant) for constant in program.limits)
    return BatchProgram(sides["waiting"], sides["victim"], program.budget, limits)


def check(program: BatchProgram) -> BatchProgram:
    """Itself.

    Raises:
        GrammarError: too many terms, one twice, a weight that is missing or out of its range, or an unknown budget.
    """
    for order in (program.waiting, program.victim):
        names = [term.name for term in order.terms]
        if len(names) > MAX_TERMS or len(set(names)) < len(names) or not set(names) <= BATCH_QUANTITIES.keys():
            raise GrammarError(
                f"at most {MAX_TERMS} different quantities of {', '.join(BATCH_QUANTITIES)}, not {names}"
            )
        for term in order.terms:
            _check_term(term, alone=len(names) == 1)
    if program.budget not in _OF_BUDGETS or tuple(c.kind for c in program.limits) != _OF_BUDGETS[program.budget]:
        raise GrammarError(f"not the budget of a step: {program.budget!r} with {[c.kind for c in program.limits]}")
    for constant in constants(program).values():
        kind = CONSTANTS[constant.kind]
        if not kind.low <= constant.value <= kind.high:
            raise GrammarError(f"{constant.kind} = {constant.value} is outside {kind.low} to {kind.high}")
    return program


def random_batch(rng: random.Random) -> BatchProgram:
    """An independent sample."""
    budget = rng.choices(BUDGETS, weights=(4, 2, 2, 2))[0]
    return BatchProgram(
        random_order(rng), random_order(rng), budget, tuple(random_constant(rng, kind) for kind in _OF_BUDGETS[budget])
    )


def random_order(rng: random.Random) -> Order:
    """By arrival now and then, else by a quantity or a few."""
    count = rng.choices((0, 1, 2, 3), weights=(3, 4, 3, 1))[0]
    names = rng.sample(list(BATCH_QUANTITIES), count)
    return canonical(Order(tuple(_random_term(rng, name) for name in names), rng.random() < 0.15))


def canonical(order: Order) -> Order:
    """Terms in the order of ``BATCH_QUANTITIES``, and what decides nothing left out.

    A lone term needs no weight, and arrival is what decides among equals in any case.
    """
    terms = sorted(order.terms, key=lambda term: list(BATCH_QUANTITIES).index(term.name))
    if len(terms) == 1:
        terms = (
            [] if terms[0] == replace(terms[0], name="arrival_time", less=False) else [replace(terms[0], weight=None)]
        )
    return replace(order, terms=tuple(_weighted(term) for term in terms) if len(terms) > 1 else tuple(terms))


def _weighted(term: Term) -> Term:
    """With the middle of its weight's range where it needs one."""
    quantity = BATCH_QUANTITIES[term.name]
    if term.weight is not None or not quantity.needs_weight:
        return term
    kind = CONSTANTS[quantity.weight]
    return replace(term, weight=rounded(kind, kind.value_at(0.5)))


def random_constant(rng: random.Random, kind: str) -> Const:
    return rounded(CONSTANTS[kind], CONSTANTS[kind].value_at(rng.triangular(0.0, 1.0, 0.5)))


def mutate(program: BatchProgram, rng: random.Random) -> tuple[BatchProgram, str]:
    """One change, in words."""
    while True:
        words, change = rng.choice(_CHANGES)
        changed = change(program, rng)
        if changed is not None and changed != program:
            return check(changed), words


def cross(first: BatchProgram, second: BatchProgram, rng: random.Random) -> tuple[BatchProgram, str]:
    """The order, the victim and the budget from one parent or the other."""
    victim, budget = rng.choice((first, second)), rng.choice((first, second))
    waiting = rng.choice((first, second))
    return BatchProgram(waiting.waiting, victim.victim, budget.budget, budget.limits), "mixes the rules of two parents"


def reductions(program: BatchProgram) -> Iterator[tuple[str, BatchProgram]]:
    """The program without each of its rules, vLLM's own in its place; and what that is."""
    plain = ENGINE_FCFS
    if program.waiting != plain.waiting:
        yield "the order of waiting", replace(program, waiting=plain.waiting)
    if program.victim != plain.victim:
        yield "the choice of victims", replace(program, victim=plain.victim)
    if program.budget != plain.budget:
        yield "the share of prefill", replace(program, budget=plain.budget, limits=plain.limits)


def to_json(program: BatchProgram) -> dict[str, Any]:
    return {
        "waiting": _dump(program.waiting),
        "victim": _dump(program.victim),
        "budget": program.budget,
        "limits": {constant.kind: constant.value for constant in program.limits},
    }


def from_json(data: Mapping[str, Any]) -> BatchProgram:
    """What ``to_json`` wrote.

    Raises:
        GrammarError: it is not one.
    """
    try:
        limits = tuple(Const(kind, float(value)) for kind, value in data["limits"].items())
        return check(BatchProgram(_load(data["waiting"]), _load(data["victim"]), data["budget"], limits))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GrammarError(f"not a batch program: {error!r}") from None


def _order(program: BatchProgram, side: str) -> Order:
    return program.waiting if side == "waiting" else program.victim


def _check_term(term: Term, *, alone: bool) -> None:
    quantity = BATCH_QUANTITIES[term.name]
    if term.weight is None and quantity.needs_weight and not alone:
        raise GrammarError(f"{term.name} is no count of tokens and needs a weight")
    if term.weight is not None and term.weight.kind != quantity.weight:
        raise GrammarError(f"{term.name} is weighted by {quantity.weight}, not by {term.weight.kind}")


def _random_term(rng: random.Random, name: str) -> Term:
    quantity = BATCH_QUANTITIES[name]
    weighted = quantity.needs_weight or rng.random() < 0.3
    return Term(name, random_constant(rng, quantity.weight) if weighted else None, rng.random() < 0.25)


def _dump(order: Order) -> dict[str, Any]:
    terms = [[term.name, None if term.weight is None else term.weight.value, term.less] for term in order.terms]
    return {"terms": terms, "priority_first": order.priority_first}


def _load(data: Mapping[str, Any]) -> Order:
    terms = (
        Term(name, None if weight is None else Const(BATCH_QUANTITIES[name].weight, float(weight)), bool(less))
        for name, weight, less in data["terms"]
    )
    return Order(tuple(terms), bool(data["priority_first"]))


Change = Callable[[BatchProgram, random.Random], BatchProgram | None]


def _on_an_order(change: Callable[[Order, random.Random], Order | None]) -> Change:
    """The same change to the order of waiting or, half as often, to that of victims."""

    def changed(program: BatchProgram, rng: random.Random) -> BatchProgram | None:
        side = rng.choice(("waiting", "waiting", "victim"))
        order = change(_order(program, side), rng)
        if order is None:
            return None
        parts = {"waiting": program.waiting, "victim": program.victim, side: canonical(order)}
        return replace(program, waiting=parts["waiting"], victim=parts["victim"])

    return changed


def _more_terms(order: Order, rng: random.Random) -> Order | None:
    names = [name for name in BATCH_QUANTITIES if all(term.name != name for term in order.terms)]
    if len(order.terms) >= MAX_TERMS:
        return None
    return replace(order, terms=(*order.terms, _random_term(rng, rng.choice(names))))


def _fewer_terms(order: Order, rng: random.Random) -> Order | None:
    if not order.terms:
        return None
    gone = rng.randrange(len(order.terms))
    return replace(order, terms=tuple(term for n, term in enumerate(order.terms) if n != gone))


def _other_sign(order: Order, rng: random.Random) -> Order | None:
    if not order.terms:
        return None
    turned = rng.randrange(len(order.terms))
    terms = (replace(term, less=not term.less) if n == turned else term for n, term in enumerate(order.terms))
    return replace(order, terms=tuple(terms))


def _other_budget(program: BatchProgram, rng: random.Random) -> BatchProgram:
    fresh = random_batch(rng)
    return replace(program, budget=fresh.budget, limits=fresh.limits)


def _other_constant(program: BatchProgram, rng: random.Random) -> BatchProgram | None:
    found = constants(program)
    if not found:
        return None
    key = rng.choice(list(found))
    return with_constants(program, {key: random_constant(rng, found[key].kind)})


_CHANGES: Sequence[tuple[str, Change]] = (
    ("orders otherwise", _on_an_order(lambda order, rng: random_order(rng))),
    ("weighs something besides", _on_an_order(_more_terms)),
    ("weighs less", _on_an_order(_fewer_terms)),
    ("turns a term round", _on_an_order(_other_sign)),
    (
        "lets priority go first, or no longer",
        _on_an_order(lambda order, rng: replace(order, priority_first=not order.priority_first)),
    ),
    ("shares steps otherwise", _other_budget),
    ("draws a constant anew", _other_constant),
)
