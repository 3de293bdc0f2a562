"""A typed grammar of policy programs: what the designer's search invents is a value of ``Program``.

Every expression has a unit and only like is added to, or compared with, like, so that few programs are nonsense.
A program is bounded in size. It is plain data: it goes to JSON and back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from designer.proposers.vocabulary import CONSTANTS, PRODUCTS, QUANTITIES, Scope, Unit

MAX_NODES = 26
"""Fields, constants and operations in a program. HRA with ageing takes 20."""
MAX_LIMITS = 2
MAX_RANKS = 3

Ties = Literal["turn", "random"]
_T = TypeVar("_T")
_ALL_SCOPES: tuple[Scope, ...] = ("request", "worker", "pool")


class GrammarError(ValueError):
    """A program that breaks the rules of the grammar; one line says which."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    """A key of ``QUANTITIES``."""


@dataclass(frozen=True, slots=True)
class Const:
    kind: str
    """A key of ``CONSTANTS``."""
    value: float


@dataclass(frozen=True, slots=True)
class Sum:
    terms: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Times:
    factor: Expr
    """A fraction, a rate, or a time per token: see ``PRODUCTS``."""
    of: Expr


@dataclass(frozen=True, slots=True)
class Larger:
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Smaller:
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Share:
    """``part / max(whole, 1)``."""

    part: Expr
    whole: Expr


Expr = Field | Const | Sum | Difference | Times | Larger | Smaller | Share


@dataclass(frozen=True, slots=True)
class Limit:
    """A candidate is admissible only while ``demand <= budget``.

    Two exceptions keep a limit from holding a request for ever: an idle worker is always admissible, and a limit that
    reads a capacity the worker has not told (0) does not bind.
    """

    demand: Expr
    budget: Expr


@dataclass(frozen=True, slots=True)
class Rank:
    by: Expr
    largest_first: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """Routing: of the candidates within every limit the first by ``choice``, or hold. Scheduling: ``order``."""

    limits: tuple[Limit, ...] = ()
    choice: tuple[Rank, ...] = ()
    """Compared in turn; none: every admissible candidate ties."""
    ties: Ties = "turn"
    """``turn``: workers take turns at coming first; ``random``: any, by the policy's own generator."""
    order: tuple[Rank, ...] = ()
    """Of the held queue, over what is known when a request is queued; none: first come first served."""


Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """An expression inside a program, and what may stand in its place."""

    path: Path
    expr: Expr
    unit: Unit
    scopes: tuple[Scope, ...]


def unit_of(expr: Expr) -> Unit:
    """The unit of an expression.

    Raises:
        GrammarError: an unknown name, a sum or comparison of unlike units, or a product that means nothing.
    """
    match expr:
        case Field(name):
            return _known(QUANTITIES, name).unit
        case Const(kind):
            return _known(CONSTANTS, kind).unit
        case Times(factor, of):
            return _product(unit_of(factor), unit_of(of))
        case Share():
            _common_unit(expr)
            return "fraction"
        case _:
            return _common_unit(expr)


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Field() | Const():
            return ()
        case Sum(terms):
            return terms
        case Times(factor, of):
            return (factor, of)
        case Share(part, whole):
            return (part, whole)
        case Difference(left, right) | Larger(left, right) | Smaller(left, right):
            return (left, right)


def with_children(expr: Expr, parts: Sequence[Expr]) -> Expr:
    """The same operation on other operands."""
    match expr:
        case Field() | Const():
            return expr
        case Sum():
            return Sum(tuple(parts))
        case Difference() | Times() | Larger() | Smaller() | Share():
            left, right = parts
            return type(expr)(left, right)


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything in it, outermost first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def scopes_of(expr: Expr) -> frozenset[Scope]:
    return frozenset(QUANTITIES[node.name].scope for node in walk(expr) if isinstance(node, Field))


def reads_capacity(expr: Expr) -> tuple[str, ...]:
    """The quantities in it that may be unknown (0), in order of appearance."""
    names = (node.name for node in walk(expr) if isinstance(node, Field) and QUANTITIES[node.name].needs_capacity)
    return tuple(dict.fromkeys(names))


def expressions(program: Program) -> Iterator[tuple[Path, Expr]]:
    """The outermost expressions of a program with where they stand."""
    for n, limit in enumerate(program.limits):
        yield ("limits", n, "demand"), limit.demand
        yield ("limits", n, "budget"), limit.budget
    for slot in ("choice", "order"):
        for n, rank in enumerate(getattr(program, slot)):
            yield (slot, n, "by"), rank.by


def sites(program: Program) -> list[Site]:
    """Every expression of a program at every depth."""
    found: list[Site] = []
    for path, expr in expressions(program):
        scopes: tuple[Scope, ...] = ("request",) if path[0] == "order" else _ALL_SCOPES
        found.extend(Site(p, e, unit_of(e), scopes) for p, e in _inside(path, expr))
    return found


def put(program: Program, path: Path, expr: Expr) -> Program:
    """The program with the expression at ``path`` replaced."""
    slot, index, part, *rest = path
    rules = list(getattr(program, str(slot)))
    rule = rules[int(index)]
    rules[int(index)] = replace(rule, **{str(part): _put_inside(getattr(rule, str(part)), rest, expr)})
    return with_slot(program, str(slot), tuple(rules))


def with_slot(program: Program, slot: str, rules: tuple[Any, ...]) -> Program:
    """The program with its ``limits``, ``choice`` or ``order`` replaced."""
    changes: dict[str, Any] = {slot: rules}
    return replace(program, **changes)


def size(program: Program) -> int:
    """Fields, constants and operations; what parsimony counts."""
    return sum(1 for _, expr in expressions(program) for _ in walk(expr))


def check(program: Program) -> Program:
    """The program itself, if it keeps every rule.

    Raises:
        GrammarError: names the rule that is broken.
    """
    if size(program) > MAX_NODES:
        raise GrammarError(f"{size(program)} nodes are more than {MAX_NODES}")
    if len(program.limits) > MAX_LIMITS or max(len(program.choice), len(program.order)) > MAX_RANKS:
        raise GrammarError(f"more than {MAX_LIMITS} limits or {MAX_RANKS} ranks")
    if program.ties not in get_args(Ties):
        raise GrammarError(f"ties are {' or '.join(get_args(Ties))}, not {program.ties!r}")
    for limit in program.limits:
        _check_limit(limit)
    for rank in (*program.choice, *program.order):
        unit_of(rank.by)
    _check_constants(program)
    if any("worker" not in scopes_of(rank.by) for rank in program.choice):
        raise GrammarError("a choice between candidates must read something of them")
    if any(scopes_of(rank.by) != {"request"} for rank in program.order):
        raise GrammarError("an order may read only what is known of a request when it is queued")
    return program


def canonical(program: Program) -> Program:
    """The same decisions in a standard form: sums flat, terms sorted, pairs of equals collapsed, repeats dropped."""
    limits = tuple(dict.fromkeys(Limit(_simplify(x.demand), _simplify(x.budget)) for x in program.limits))
    choice = tuple({rank.by: rank for rank in reversed(_simplified(program.choice))}.values())[::-1]
    order = tuple({rank.by: rank for rank in reversed(_simplified(program.order))}.values())[::-1]
    return replace(program, limits=limits, choice=choice, order=order)


def to_json(program: Program) -> dict[str, Any]:
    return {
        "limits": [{"demand": _dump(x.demand), "budget": _dump(x.budget)} for x in program.limits],
        "choice": [{"by": _dump(rank.by), "largest_first": rank.largest_first} for rank in program.choice],
        "ties": program.ties,
        "order": [{"by": _dump(rank.by), "largest_first": rank.largest_first} for rank in program.order],
    }


def from_json(data: Mapping[str, Any]) -> Program:
    """The program that ``to_json`` wrote.

    Raises:
        GrammarError: it is not one.
    """
    try:
        program = Program(
            tuple(Limit(_load(x["demand"]), _load(x["budget"])) for x in data["limits"]),
            tuple(Rank(_load(x["by"]), bool(x["largest_first"])) for x in data["choice"]),
            data["ties"],
            tuple(Rank(_load(x["by"]), bool(x["largest_first"])) for x in data["order"]),
        )
        return check(program)
    except GrammarError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GrammarError(f"not a program: {error!r}") from None


def _known(catalogue: Mapping[str, _T], name: str) -> _T:
    if name not in catalogue:
        raise GrammarError(f"no such quantity or constant: {name!r}")
    return catalogue[name]


def _product(factor: Unit, of: Unit) -> Unit:
    if (factor, of) not in PRODUCTS:
        raise GrammarError(f"{factor} times {of} means nothing")
    return PRODUCTS[factor, of]


def _common_unit(expr: Expr) -> Unit:
    units = [unit_of(child) for child in children(expr)]
    if len(units) < 2 or len(set(units)) > 1:
        raise GrammarError(f"{type(expr).__name__} needs two or more operands of one unit, not {units}")
    return units[0]


def _inside(path: Path, expr: Expr) -> Iterator[tuple[Path, Expr]]:
    yield path, expr
    for n, child in enumerate(children(expr)):
        yield from _inside((*path, n), child)


def _put_inside(expr: Expr, path: Sequence[str | int], new: Expr) -> Expr:
    if not path:
        return new
    parts = list(children(expr))
    parts[int(path[0])] = _put_inside(parts[int(path[0])], path[1:], new)
    return with_children(expr, parts)


def _check_limit(limit: Limit) -> None:
    if unit_of(limit.demand) != unit_of(limit.budget):
        raise GrammarError(f"a limit compares {unit_of(limit.demand)} with {unit_of(limit.budget)}")
    read = [QUANTITIES[node.name] for node in walk(limit.demand) if isinstance(node, Field)]
    if not any(quantity.is_load for quantity in read):
        raise GrammarError("a limit's demand must read the load of a worker")
    if lingering := [quantity.name for quantity in read if quantity.lingers]:
        raise GrammarError(f"a limit on {lingering[0]} would bar a worker for what only work can change")


def _check_constants(program: Program) -> None:
    for _, expr in expressions(program):
        for node in walk(expr):
            if isinstance(node, Const):
                kind = CONSTANTS[node.kind]
                if not kind.low <= node.value <= kind.high:
                    raise GrammarError(f"{node.kind} = {node.value} is outside {kind.low} to {kind.high}")


def _simplified(ranks: Sequence[Rank]) -> list[Rank]:
    return [Rank(_simplify(rank.by), rank.largest_first) for rank in ranks]


def _simplify(expr: Expr) -> Expr:
    parts = [_simplify(child) for child in children(expr)]
    if isinstance(expr, Larger | Smaller) and parts[0] == parts[1]:
        return parts[0]
    if isinstance(expr, Sum):
        flat = [term for part in parts for term in (part.terms if isinstance(part, Sum) else (part,))]
        terms = sorted(dict.fromkeys(flat), key=_sort_key)
        return Sum(tuple(terms)) if len(terms) > 1 else terms[0]
    return with_children(expr, parts)


def _sort_key(expr: Expr) -> tuple[int, str]:
    """Workers before the pool before the request before constants: the order a person would write a sum in."""
    scopes = scopes_of(expr)
    rank = 0 if "worker" in scopes else 1 if "pool" in scopes else 2 if scopes else 3
    return rank, repr(expr)


_PAIRS: Mapping[str, type[Difference] | type[Times] | type[Larger] | type[Smaller] | type[Share]] = {
    "difference": Difference,
    "times": Times,
    "larger": Larger,
    "smaller": Smaller,
    "share": Share,
}
_NAMES: Mapping[type, str] = {Sum: "sum", **{node: name for name, node in _PAIRS.items()}}


def _dump(expr: Expr) -> dict[str, Any]:
    match expr:
        case Field(name):
            return {"field": name}
        case Const(kind, value):
            return {"const": kind, "value": value}
        case _:
            return {_NAMES[type(expr)]: [_dump(child) for child in children(expr)]}


def _load(data: Mapping[str, Any]) -> Expr:
    if "field" in data:
        return Field(str(data["field"]))
    if "const" in data:
        return Const(str(data["const"]), float(data["value"]))
    ((name, parts),) = data.items()
    operands = [_load(part) for part in parts]
    if name == "sum":
        return Sum(tuple(operands))
    left, right = operands
    return _PAIRS[name](left, right)
