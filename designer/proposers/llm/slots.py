"""Whether a module fills the slots of a run's target and no other, told by its text, before it is run."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from designer.proposers.parts import PartName
from policies.contract import SLOTS, Slot
from policies.syntax import parse

METHODS: Mapping[Slot, tuple[str, ...]] = {
    "routing": ("route",),
    "scheduling": ("admit", "key"),
    "autoscaling": ("desired_replicas",),
    "batch": ("waiting_key", "victim_key", "prefill_budget"),
    "observer": ("observe",),
}
"""A slot is filled by a policy that has all of its methods."""
_OWN: Mapping[PartName, tuple[Slot, ...]] = {
    "routing": ("routing", "scheduling"),
    "scheduling": ("scheduling",),
    "autoscaling": ("autoscaling",),
    "batch": ("batch",),
}
_PROTOCOLS: Mapping[str, Slot] = {
    "RoutingPolicy": "routing",
    "HoldingPolicy": "routing",
    "SchedulingPolicy": "scheduling",
    "AutoscalingPolicy": "autoscaling",
    "BatchPolicy": "batch",
    "Observer": "observer",
}
"""A class that inherits one has its methods too."""
GIVEN_ROUTE = """\
    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        able = [c for c in candidates if c.worker.num_inflight_requests == 0 or c.worker.kv_cache_usage <= 0.8]
        return min(able, key=lambda c: c.worker.num_inflight_requests) if able else None
"""
"""Where the order of the queue alone is searched: a plain router that holds, without which there is no queue."""


def slots_of_target(parts: Sequence[PartName]) -> tuple[Slot, ...]:
    """The slots an author may fill for a target, besides that of an observer."""
    own = {slot for part in parts for slot in _OWN[part]}
    return tuple(slot for slot in SLOTS if slot in own)


def problem(source: str, parts: Sequence[PartName]) -> str:
    """What is wrong with the slots it fills, and the remedy; empty: nothing, or it is no Python, which others tell."""
    try:
        tree = parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    names = _methods(tree)
    own, target = slots_of_target(parts), ", ".join(parts)
    for slot in own:
        if lacking := _lacking(slot, names):
            return f"{slot} is filled by {_listed(METHODS[slot])} together; the class lacks {_listed(lacking)}"
    for slot in _outside(parts):
        if names.issuperset(METHODS[slot]):
            methods = _listed(METHODS[slot])
            return f"the target of this run is {target}; take out {methods}, which fills the slot {slot} outside of it"
    if not any(names.issuperset(METHODS[slot]) for slot in own):
        wanted = " or ".join(_listed(METHODS[slot]) for slot in own)
        return f"the module fills no slot of the target {target}; the class that create(rng) returns needs {wanted}"
    return _given_route(tree) if _gives_route(parts) else ""


def _gives_route(parts: Sequence[PartName]) -> bool:
    return "scheduling" in parts and "routing" not in parts


def _outside(parts: Sequence[PartName]) -> list[Slot]:
    """Slots that may not be filled. A batch policy alone hears nothing of what an observer is told."""
    free = {*slots_of_target(parts), *(("routing",) if _gives_route(parts) else ())}
    free |= {"observer"} if set(parts) != {"batch"} else set()
    return [slot for slot in SLOTS if slot not in free]


def _lacking(slot: Slot, names: frozenset[str]) -> list[str]:
    """Methods of a slot that is filled in part: the policy would silently be left out."""
    lacking = [name for name in METHODS[slot] if name not in names]
    return [] if len(lacking) == len(METHODS[slot]) else lacking


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _methods(tree: ast.Module) -> frozenset[str]:
    """Names that objects of the module's classes have: methods, what is assigned to them, what they inherit."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                found |= _of_class(node)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                found.add(name)
    return frozenset(found)


def _of_class(node: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found.add(name)
    for base in node.bases:
        name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
        found |= set(METHODS[_PROTOCOLS[name]]) if name in _PROTOCOLS else set()
    return found


def _given_route(tree: ast.Module) -> str:
    """The router that belongs to the target must be there as it was given; types and comments do not matter."""
    wanted = _bare(parse(f"class Given:\n{GIVEN_ROUTE}"))
    if _bare(tree) == wanted:
        return ""
    return (
        "`route` is not of this run's target: have it in the class exactly as given, for what it holds is what `key` "
        f"orders, and no `may_go`:\n{GIVEN_ROUTE}"
    )


def _bare(tree: ast.Module) -> list[str]:
    """Every ``route`` and ``may_go`` of the classes, without types."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name in ("route", "may_go"):
                    arguments = [argument.arg for argument in method.args.args]
                    found.append(f"{method.name}{arguments}{[ast.dump(part) for part in _body(method)]}")
    return found


def _body(method: ast.FunctionDef) -> list[ast.stmt]:
    """Without its docstring."""
    return method.body[1:] if ast.get_docstring(method) is not None else method.body
