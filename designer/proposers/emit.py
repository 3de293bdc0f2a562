"""A program as the module a person would have written: named quantities, shallow lines, constants as parameters."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

from designer.proposers.grammar import (
    Const,
    Difference,
    Expr,
    Field,
    Larger,
    Limit,
    Path,
    Program,
    Rank,
    Share,
    Site,
    Smaller,
    Sum,
    Times,
    put,
    reads_capacity,
    scopes_of,
    sites,
    unit_of,
)
from designer.proposers.sections import Parameter, Section
from designer.proposers.vocabulary import CONSTANTS, QUANTITIES
from designer.proposers.words import paragraphs, title, why

_WIDTH = 110
_CLASS = "DesignedPolicy"


def emit(program: Program) -> str:
    """The source of a policy module that decides as ``interpret`` does, constants as its parameters' defaults."""
    names = _parameter_names(program)
    parts = [
        _docstring(program),
        "from __future__ import annotations\n\nfrom collections.abc import Sequence\n\n"
        "from policies.contract import Candidate, Pool, Request, Rng\n\n",
        f"class {_CLASS}:",
        _init(program, names),
        _admit(),
        _key(program, names),
        _route(program),
        *([_may_take(program, names)] if program.limits else []),
        *([_rank(program, names)] if program.choice else []),
        "\n" + _create(program, names),
    ]
    return "\n".join(parts)


def routing_section(program: Program) -> Section:
    """The same policy as part of a module that fills more slots."""
    names = _parameter_names(program)
    return Section(
        title=title(program).removesuffix("."),
        rules=tuple(paragraphs(program)),
        why=why(program),
        methods=(
            _admit(),
            _key(program, names),
            _route(program),
            *((_may_take(program, names),) if program.limits else ()),
            *((_rank(program, names),) if program.choice else ()),
        ),
        parameters=_parameters(program),
        state=("self._rng = rng" if program.ties == "random" else "self._turn = 0",),
        contract=frozenset({"Candidate", "Pool", "Request"}),
        typing=frozenset({"Sequence"}),
        reads_rng=program.ties == "random",
    )


def _parameters(program: Program) -> tuple[Parameter, ...]:
    values = constants(program)
    kinds = {name: site.expr.kind for site, name in _named(program) if isinstance(site.expr, Const)}
    return tuple(Parameter(name, value, CONSTANTS[kinds[name]].words) for name, value in values.items())


def _named(program: Program) -> list[tuple[Site, str]]:
    names = _parameter_names(program)
    return [(site, names[site.path]) for site in sites(program) if site.path in names]


def constants(program: Program) -> dict[str, float]:
    """The parameters of the emitted module with their defaults."""
    names = _parameter_names(program)
    return {names[site.path]: site.expr.value for site in sites(program) if isinstance(site.expr, Const)}


def with_constants(program: Program, values: dict[str, float]) -> Program:
    """The program with some parameters of its emitted module set otherwise."""
    for path, name in _parameter_names(program).items():
        if name in values:
            constant = next(site.expr for site in sites(program) if site.path == path)
            if isinstance(constant, Const):
                program = put(program, path, Const(constant.kind, values[name]))
    return program


@dataclass
class _Block:
    """The lines of one method; an expression that is not flat becomes a local with a name of its own."""

    names: dict[Path, str]
    lines: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    def code(self, expr: Expr, path: Path) -> str:
        """An expression as code of at most one operation over names and weighted names."""
        match expr:
            case Field(name):
                return QUANTITIES[name].code
            case Const():
                return f"self._{self.names[path]}"
            case Times(factor, of):
                return f"{self.atom(factor, (*path, 0))} * {self.atom(of, (*path, 1))}"
            case Sum(terms):
                return " + ".join(self.term(term, (*path, n)) for n, term in enumerate(terms))
            case Difference(left, right):
                return f"{self.term(left, (*path, 0))} - {self.term(right, (*path, 1))}"
            case Share(part, whole):
                return f"{self.atom(part, (*path, 0))} / max({self.atom(whole, (*path, 1))}, 1)"
            case Larger(left, right):
                return f"max({self.term(left, (*path, 0))}, {self.term(right, (*path, 1))})"
            case Smaller(left, right):
                return f"min({self.term(left, (*path, 0))}, {self.term(right, (*path, 1))})"

    def atom(self, expr: Expr, path: Path) -> str:
        return self.code(expr, path) if isinstance(expr, Field | Const) else self.local(expr, path)

    def term(self, expr: Expr, path: Path) -> str:
        return self.code(expr, path) if isinstance(expr, Field | Const | Times) else self.local(expr, path)

    def local(self, expr: Expr, path: Path, name: str = "") -> str:
        """Assign the expression to a local and give the local's name; the same code is assigned once."""
        code = self.code(expr, path)
        if code in self.known:
            return self.known[code]
        name = self.unused(name or _local_name(expr))
        self.known[code] = name
        self.lines += _assignment(name, code)
        return name

    def unused(self, name: str) -> str:
        self.used[name] = self.used.get(name, 0) + 1
        return name if self.used[name] == 1 else f"{name}_{self.used[name]}"


def _assignment(name: str, code: str) -> list[str]:
    line = f"{name} = {code}"
    if len(line) <= _WIDTH - 8 or " + " not in code:
        return [line]
    first, *rest = code.split(" + ")
    return [f"{name} = (", f"    {first}", *(f"    + {term}" for term in rest), ")"]


def _local_name(expr: Expr) -> str:
    scopes = scopes_of(expr)
    unit = unit_of(expr)
    if isinstance(expr, Share):
        return "load_share" if "worker" in scopes else "share"
    owner = "load" if "worker" in scopes else "pool" if "pool" in scopes else "need"
    return f"{owner}_{unit}"


def _parameter_names(program: Program) -> dict[Path, str]:
    """A name for each constant: its kind, numbered where a kind comes twice."""
    found = [(site.path, site.expr.kind) for site in sites(program) if isinstance(site.expr, Const)]
    names: dict[Path, str] = {}
    for path, kind in found:
        taken = sum(1 for name in names.values() if name == kind or name.startswith(f"{kind}_"))
        names[path] = kind if taken == 0 else f"{kind}_{taken + 1}"
    return names


def _docstring(program: Program) -> str:
    rules = [textwrap.fill(text, _WIDTH) for text in paragraphs(program) if text]
    reason = textwrap.fill(f"Why it should work: {why(program)}", _WIDTH)
    heading = textwrap.shorten(title(program), _WIDTH, placeholder=" …")
    return '"""' + "\n\n".join([heading, *rules, reason, "Written by the designer."]) + '\n"""\n'


def _init(program: Program, names: dict[Path, str]) -> str:
    arguments = "".join(f", {name}: float" for name in names.values())
    body = [f"self._{name} = {name}" for name in names.values()]
    body.append("self._rng = rng" if program.ties == "random" else "self._turn = 0")
    return _method(f"__init__(self, rng: Rng{arguments}) -> None", body)


def _admit() -> str:
    return _method("admit(self, request: Request, pool: Pool) -> bool", ["return True"])


def _key(program: Program, names: dict[Path, str]) -> str:
    block = _Block(names)
    parts = _rank_parts(block, "order", program.order)
    body = [
        *block.lines,
        f"return ({', '.join([*parts, 'request.arrival_time'])},)".replace(",)", ")" if parts else ",)"),
    ]
    return _method("key(self, request: Request) -> tuple[float, ...]", body)


def _route(program: Program) -> str:
    body = []
    pickable = "candidates"
    if program.ties == "turn":
        body += ["start = self._turn % len(candidates)", "in_turn = [*candidates[start:], *candidates[:start]]"]
        pickable = "in_turn"
    if program.limits:
        body.append(f"able = [candidate for candidate in {pickable} if self._may_take(request, candidate, pool)]")
        body += ["if not able:", "    return None"]
        pickable = "able"
    if program.ties == "turn":
        body += ["self._turn = start + 1", _first(program, pickable)]
    else:
        body += _any_of_best(program, pickable)
    return _method(
        "route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None", body
    )


def _first(program: Program, pickable: str) -> str:
    if not program.choice:
        return f"return {pickable}[0]"
    return f"return min({pickable}, key=lambda candidate: self._rank(request, candidate, pool))"


def _any_of_best(program: Program, pickable: str) -> list[str]:
    if not program.choice:
        return [f"return self._rng.choice({pickable})"]
    return [
        f"ranks = [self._rank(request, candidate, pool) for candidate in {pickable}]",
        "best = min(ranks)",
        f"tied = [candidate for candidate, rank in zip({pickable}, ranks, strict=True) if rank == best]",
        "return self._rng.choice(tied)",
    ]


def _may_take(program: Program, names: dict[Path, str]) -> str:
    body = ["worker = candidate.worker", "if worker.num_inflight_requests == 0:", "    return True"]
    block = _Block(names)
    tests = [_limit_test(block, n, limit) for n, limit in enumerate(program.limits)]
    body += block.lines
    for test in tests[:-1]:
        body += [f"if not ({test}):", "    return False"]
    body.append(f"return {tests[-1]}")
    return _method("_may_take(self, request: Request, candidate: Candidate, pool: Pool) -> bool", body)


def _limit_test(block: _Block, n: int, limit: Limit) -> str:
    demand = _side(block, limit.demand, ("limits", n, "demand"), "committed")
    budget = _side(block, limit.budget, ("limits", n, "budget"), "allowed")
    unknown = dict.fromkeys((*reads_capacity(limit.demand), *reads_capacity(limit.budget)))
    return " or ".join([*(f"{QUANTITIES[name].code} == 0" for name in unknown), f"{demand} <= {budget}"])


def _side(block: _Block, expr: Expr, path: Path, what: str) -> str:
    if isinstance(expr, Field | Const):
        return block.code(expr, path)
    return block.local(expr, path, f"{what}_{unit_of(expr)}")


def _rank(program: Program, names: dict[Path, str]) -> str:
    block = _Block(names)
    parts = _rank_parts(block, "choice", program.choice)
    worker = ["worker = candidate.worker"] if any("worker." in line for line in (*block.lines, *parts)) else []
    result = f"return ({', '.join(parts)})" if len(parts) > 1 else f"return ({parts[0]},)"
    return _method(
        "_rank(self, request: Request, candidate: Candidate, pool: Pool) -> tuple[float, ...]",
        [*worker, *block.lines, result],
    )


def _rank_parts(block: _Block, slot: str, ranks: tuple[Rank, ...]) -> list[str]:
    parts = []
    for n, rank in enumerate(ranks):
        flat = block.atom(rank.by, (slot, n, "by")) if rank.largest_first else block.term(rank.by, (slot, n, "by"))
        parts.append(f"-{flat}" if rank.largest_first else flat)
    return parts


def _create(program: Program, names: dict[Path, str]) -> str:
    values = constants(program)
    kinds = {names[site.path]: site.expr.kind for site in sites(program) if isinstance(site.expr, Const)}
    star = ", *" if values else ""
    typed = "".join(f", {name}: float = {value!r}" for name, value in values.items())
    signature = f"def create(rng: Rng{star}{typed}) -> {_CLASS}:"
    if len(signature) > _WIDTH:
        lines = "".join(f"    {name}: float = {value!r},\n" for name, value in values.items())
        signature = f"def create(\n    rng: Rng,\n    *,\n{lines}) -> {_CLASS}:"
    notes = [f"    ``{name}``: {CONSTANTS[kind].words}." for name, kind in kinds.items()]
    notes = ['    """' + notes[0].strip(), *notes[1:], '    """'] if notes else []
    arguments = ", ".join(["rng", *values])
    made = f"    return {_CLASS}({arguments})"
    if len(made) > _WIDTH:
        made = f"    return {_CLASS}(\n        {arguments}\n    )"
    return "\n".join([signature, *notes, made, ""])


def _method(signature: str, body: list[str]) -> str:
    head = f"    def {signature}:"
    if len(head) > _WIDTH + 8:
        name, _, rest = signature.partition("(")
        inside, _, result = rest.rpartition(")")
        arguments = "".join(f"        {argument},\n" for argument in inside.split(", "))
        head = f"    def {name}(\n{arguments}    ){result}:"
    return "\n".join([head, *(f"        {line}" for line in body), ""])
