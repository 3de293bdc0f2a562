"""What each component of a winner is worth: the winner without it, on seeds that the search has not seen.

A program of the grammar is taken apart rule by rule and term by term; any other policy slot by slot, with the
gateway's own rule in the slot that is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from designer.proposers import batching, scaling
from designer.proposers.batching import BatchProgram
from designer.proposers.emit import emit
from designer.proposers.grammar import (
    GrammarError,
    Program,
    Sum,
    canonical,
    check,
    from_json,
    put,
    sites,
    with_slot,
)
from designer.proposers.parts import PARTS, Joint, emit_joint
from designer.proposers.parts import from_json as parts_from_json
from designer.proposers.scaling import ScalingProgram
from designer.proposers.words import phrase
from designer.sealed import Judge, Scored, effect_json, effect_of
from designer.statistics import holm
from designer.subject import Subject, subject_of_source
from policies.contract import Slot

Kind = Literal["limit", "choice", "order", "term", "slot"]


MOST_COMPONENTS = 16
"""That are simulated: what an ablation costs is known before the run."""


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a policy, and the policy without it."""

    words: str
    kind: Kind
    without: Subject


def components(winner: Subject, program: Mapping[str, Any] | None) -> list[Component]:
    """Every component that can be left out with a valid policy remaining; each remainder once."""
    if program is None:
        parts = list(_of_slots(winner))
    else:
        parts = list(_of_parts(parts_from_json(program)) if "parts" in program else _of_program(from_json(program)))
    distinct = {part.without.digest: part for part in reversed(parts) if part.without.digest != winner.digest}
    return list(distinct.values())[::-1]


def ablate(judge: Judge, winner: Subject, parts: Sequence[Component], seeds: Sequence[int]) -> dict[str, Any]:
    """The ratio of the policy without each component to the winner: above 1 the component helps.

    The seeds are those of no other split. p-values are two-sided and adjusted for the number of components (Holm). Of
    more than ``MOST_COMPONENTS`` the rest is named and not simulated.
    """
    tried, left = parts[:MOST_COMPONENTS], parts[MOST_COMPONENTS:]
    whole, *rest = judge.score("ablation", [winner, *(part.without for part in tried)], seeds)
    rows = [_row(part, scored, whole) for part, scored in zip(tried, rest, strict=True)]
    known = [row for row in rows if "p_value" in row]
    for row, adjusted in zip(known, holm([row["p_value"] for row in known]), strict=True):
        row["adjusted_p"] = adjusted
    return {"seeds": len(seeds), "rows": rows, "not_tried": [part.words for part in left]}


def _row(part: Component, scored: Scored, whole: Scored) -> dict[str, Any]:
    row = {"component": part.words, "kind": part.kind, "digest": part.without.digest}
    if failure := scored.failure or whole.failure:
        return {**row, "failure": failure}
    return {**row, **effect_json(effect_of(scored, whole))}


def _of_program(program: Program) -> Iterator[Component]:
    yield from _without(program, _rules(program))
    yield from _without(program, _terms(program))


def _without(program: Program, smaller: Iterator[tuple[str, Kind, Program]]) -> Iterator[Component]:
    for words, kind, reduced in _valid(program, smaller):
        yield Component(words, kind, subject_of_source(emit(reduced), f"without {words}"))


def _valid(program: Program, smaller: Iterable[tuple[str, Kind, Program]]) -> Iterator[tuple[str, Kind, Program]]:
    for words, kind, rest in smaller:
        try:
            reduced = check(canonical(rest))
        except GrammarError:
            continue
        if reduced != program:
            yield words, kind, reduced


def _rules(program: Program) -> Iterator[tuple[str, Kind, Program]]:
    for n, limit in enumerate(program.limits):
        rest = (*program.limits[:n], *program.limits[n + 1 :])
        words = f"the limit on {phrase(limit.demand)}"
        yield words, "limit", with_slot(program, "limits", rest)
    kinds: tuple[Literal["choice", "order"], ...] = ("choice", "order")
    for kind in kinds:
        ranks = getattr(program, kind)
        for n, rank in enumerate(ranks):
            what = "the choice" if kind == "choice" else "the queue order"
            yield f"{what} by {phrase(rank.by)}", kind, with_slot(program, kind, (*ranks[:n], *ranks[n + 1 :]))


def _terms(program: Program) -> Iterator[tuple[str, Kind, Program]]:
    for site in sites(program):
        if isinstance(site.expr, Sum):
            for n, term in enumerate(site.expr.terms):
                rest = (*site.expr.terms[:n], *site.expr.terms[n + 1 :])
                smaller = Sum(rest) if len(rest) > 1 else rest[0]
                yield f"{phrase(term)}, in the {_WHERE[site.path[0]]}", "term", put(program, site.path, smaller)


def _of_parts(program: Joint) -> Iterator[Component]:
    """Each part of a joint program as a whole, what is in use without the designer in its place; then within parts."""
    for name, part in program.parts:
        plain = PARTS[name].founders[0][1]
        if len(program.parts) > 1 and part != plain:
            yield _joint(f"the {name} rules", "slot", program.with_part(name, plain))
        for words, kind, smaller in _within(part):
            yield _joint(words, kind, program.with_part(name, smaller))


def _joint(words: str, kind: Kind, rest: Joint) -> Component:
    return Component(words, kind, subject_of_source(emit_joint(rest), f"without {words}"))


def _within(part: Any) -> Iterator[tuple[str, Kind, Any]]:
    if isinstance(part, Program):
        yield from _valid(part, (*_rules(part), *_terms(part)))
    elif isinstance(part, ScalingProgram):
        yield from ((words, "term", smaller) for words, smaller in scaling.reductions(part))
    elif isinstance(part, BatchProgram):
        yield from ((words, "term", smaller) for words, smaller in batching.reductions(part))


_WHERE: Mapping[str | int, str] = {"limits": "limit", "choice": "choice of worker", "order": "queue order"}


def _of_slots(winner: Subject) -> Iterator[Component]:
    """The slots a module fills are seen in its text: it is not executed here."""
    for n, part in enumerate(winner.parts):
        filled = part.slots or tuple(slot for slot, method in _METHOD.items() if method in part.source)
        for slot in filled:
            others = tuple(other for other in filled if other != slot)
            if others:
                rest = (*winner.parts[:n], replace(part, slots=others), *winner.parts[n + 1 :])
                yield Component(f"the {slot} rule", "slot", Subject(f"without {slot}", rest))


_METHOD: Mapping[Slot, str] = {
    "routing": "def route(",
    "scheduling": "def key(",
    "autoscaling": "def desired_replicas(",
    "batch": "def waiting_key(",
}
