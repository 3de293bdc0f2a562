"""The parts that a policy program may have, each with a grammar of its own, and programs made of several of them.

What is searched is any set of parts. ``routing`` is where a request goes, whether it is held, and the order of what
is held; ``scheduling`` is that order alone, beside a plain router that holds; ``autoscaling`` and ``batch`` are what
they say.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from designer.proposers import batching, grammar, scaling
from designer.proposers.behaviour import requests, signature
from designer.proposers.emit import routing_section
from designer.proposers.emit_batch import batch_section
from designer.proposers.emit_scaling import scaling_section
from designer.proposers.founders import FOUNDERS
from designer.proposers.grammar import Const, GrammarError, Program
from designer.proposers.interpret import order_key
from designer.proposers.known_rules import (
    BATCH_FOUNDERS,
    BATCH_RULES,
    ORDER_FOUNDERS,
    ORDER_RULES,
    PLAIN_ROUTER,
    SCALING_FOUNDERS,
    SCALING_RULES,
)
from designer.proposers.sampling import Sampler
from designer.proposers.sections import Section, compose
from designer.proposers.simplify import simplified
from designer.proposers.tuned_baseline import FAMILIES
from designer.proposers.tuning import ROUTING, Space
from designer.proposers.variation import cross, mutate, mutate_order
from designer.proposers.vocabulary import CONSTANTS, ConstantKind

PartName = Literal["routing", "scheduling", "autoscaling", "batch"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)
Rules = Sequence[tuple[str, Any]]
"""Programs with their names."""


@dataclass(frozen=True, slots=True)
class PartKind:
    """The grammar of one part. A program of it is immutable, hashable and compares by value."""

    founders: Rules
    """Where a search starts: what anybody would try first."""
    rules: Rules
    """Known rules, whose constants ``tuned-baseline`` tunes."""
    sample: Callable[[Sampler], Any]
    mutate: Callable[[Any, Sampler], tuple[Any, str]]
    cross: Callable[[Any, Any, Sampler], tuple[Any, str]]
    constants: Callable[[Any], Mapping[Any, Const]]
    replaced: Callable[[Any, Mapping[Any, Const]], Any | None]
    behaviour: Callable[[Any], Hashable]
    """Equal for programs that decide alike, as far as that is known."""
    section: Callable[[Any], Section]
    to_json: Callable[[Any], dict[str, Any]]
    from_json: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Joint:
    """A program of one part or several."""

    parts: tuple[tuple[PartName, Any], ...]
    """In the order of ``PART_NAMES``."""

    def with_part(self, name: PartName, program: Any) -> Joint:
        return Joint(tuple((part, program if part == name else known) for part, known in self.parts))


def emit_joint(program: Joint) -> str:
    """The source of one module that fills the slots of every part."""
    return compose([PARTS[name].section(part) for name, part in program.parts])


def why_joint(program: Joint) -> str:
    return " ".join(PARTS[name].section(part).why for name, part in program.parts)


def behaviour(program: Joint) -> Hashable:
    """Equal for programs that decide alike, as far as that is known."""
    return tuple((name, PARTS[name].behaviour(part)) for name, part in program.parts)


def to_json(program: Joint) -> dict[str, Any]:
    return {"parts": {name: PARTS[name].to_json(part) for name, part in program.parts}}


def from_json(data: Mapping[str, Any]) -> Joint:
    """What ``to_json`` wrote.

    Raises:
        GrammarError: it is not one.
    """
    parts = data.get("parts")
    if not isinstance(parts, Mapping) or not parts or not parts.keys() <= set(PART_NAMES):
        raise GrammarError(f"not a program of parts: {data!r:.60}")
    return Joint(tuple((name, PARTS[name].from_json(parts[name])) for name in PART_NAMES if name in parts))


def _constants(program: Joint) -> Mapping[Any, Const]:
    return {(name, key): c for name, part in program.parts for key, c in PARTS[name].constants(part).items()}


def _replaced(program: Joint, values: Mapping[Any, Const]) -> Joint | None:
    """None: a part would break a rule."""
    parts = []
    for name, part in program.parts:
        mine = {key: constant for (of, key), constant in values.items() if of == name}
        changed = PARTS[name].replaced(part, mine) if mine else part
        if changed is None:
            return None
        parts.append((name, changed))
    return Joint(tuple(parts))


def _kinds() -> Mapping[str, ConstantKind]:
    """Of all parts: their names differ, so that they can be parameters of one module."""
    return {**CONSTANTS, **scaling.CONSTANTS, **batching.CONSTANTS}


def _scaling_replaced(program: Any, values: Mapping[Any, Const]) -> Any | None:
    return scaling.check(scaling.with_constants(program, values))


def _batch_replaced(program: Any, values: Mapping[Any, Const]) -> Any | None:
    return batching.check(batching.with_constants(program, values))


def _order_section(program: Program) -> Section:
    """With the router that holds what is ordered, so that the module decides something."""
    return routing_section(replace(PLAIN_ROUTER, order=program.order))


def _mutated_routing(program: Program, sampler: Sampler) -> tuple[Program, str]:
    """Changed, and without what then decides nothing."""
    changed, words = mutate(program, sampler, refine=True)
    return simplified(changed), words


def _some_order(sampler: Sampler) -> Program:
    return grammar.check(grammar.canonical(Program(order=(sampler.order_rank(),))))


def _cross_orders(first: Program, second: Program, sampler: Sampler) -> tuple[Program, str]:
    return mutate_order(sampler.rng.choice((first, second)), sampler)


def _queue_behaviour(program: Program) -> Hashable:
    """The order of a held queue."""
    waiting = requests(0, 32)
    key = order_key(program)
    return tuple(sorted(range(len(waiting)), key=lambda n: key(waiting[n])))


def _cross_scaling(first: Any, second: Any, sampler: Sampler) -> tuple[Any, str]:
    return scaling.cross(first, second, sampler.rng)


PARTS: Mapping[PartName, PartKind] = {
    "routing": PartKind(
        founders=FOUNDERS,
        rules=FAMILIES,
        sample=lambda sampler: simplified(sampler.program()),
        mutate=_mutated_routing,
        cross=cross,
        constants=ROUTING.constants,
        replaced=ROUTING.replaced,
        behaviour=signature,
        section=routing_section,
        to_json=grammar.to_json,
        from_json=grammar.from_json,
    ),
    "scheduling": PartKind(
        founders=ORDER_FOUNDERS,
        rules=ORDER_RULES,
        sample=_some_order,
        mutate=mutate_order,
        cross=_cross_orders,
        constants=ROUTING.constants,
        replaced=ROUTING.replaced,
        behaviour=_queue_behaviour,
        section=_order_section,
        to_json=grammar.to_json,
        from_json=grammar.from_json,
    ),
    "autoscaling": PartKind(
        founders=SCALING_FOUNDERS,
        rules=SCALING_RULES,
        sample=lambda sampler: scaling.random_scaling(sampler.rng),
        mutate=lambda program, sampler: scaling.mutate(program, sampler.rng),
        cross=_cross_scaling,
        constants=scaling.constants,
        replaced=_scaling_replaced,
        behaviour=lambda program: program,
        section=scaling_section,
        to_json=scaling.to_json,
        from_json=scaling.from_json,
    ),
    "batch": PartKind(
        founders=BATCH_FOUNDERS,
        rules=BATCH_RULES,
        sample=lambda sampler: batching.random_batch(sampler.rng),
        mutate=lambda program, sampler: batching.mutate(program, sampler.rng),
        cross=lambda first, second, sampler: batching.cross(first, second, sampler.rng),
        constants=batching.constants,
        replaced=_batch_replaced,
        behaviour=lambda program: program,
        section=batch_section,
        to_json=batching.to_json,
        from_json=batching.from_json,
    ),
}
_CARRIED = frozenset(signal.carried for signal in scaling.SIGNALS.values())
_CLIFF = 0.3
"""A third worse: more than constants are worth beside their best, less than what broken promises cost."""
JOINT: Space[Joint] = Space(_kinds(), _constants, _replaced, _CARRIED, _CLIFF)
"""Line search over the constants of all parts; what a replica carries decides most, and so comes first."""
