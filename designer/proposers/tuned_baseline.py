"""The other control: the plain rules that operators use, with their constants tuned, and no rule invented.

A search that does not beat this at equal budget has found constants, not a policy. The best of it stands beside the
baselines when the comparator is picked.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence, Set

from designer.proposers.emit import emit
from designer.proposers.grammar import (
    Const,
    Difference,
    Field,
    Limit,
    Program,
    Rank,
    Times,
    from_json,
    put,
    sites,
    to_json,
    walk,
)
from designer.proposers.protocol import History, Proposal
from designer.proposers.sampling import Sampler
from designer.proposers.tuning import ROUTING, Archive, Known
from designer.proposers.vocabulary import QUANTITIES
from designer.proposers.words import why

_FEWEST = Rank(Field("worker.num_inflight_requests"))
_SHORTEST = (Rank(Field("request.num_prompt_tokens")),)
_CAP = Limit(Field("worker.num_inflight_requests"), Const("most_requests", 64.0))
_SATURATED = Limit(Field("worker.kv_cache_usage"), Const("most_used_share", 0.8))
_TOKENS = Limit(Field("worker.num_inflight_prompt_tokens"), Const("most_tokens", 16384.0))
_CACHED = Difference(
    Field("worker.num_inflight_tokens"), Times(Const("weight", 1.0), Field("candidate.num_cached_tokens"))
)

FAMILIES: tuple[tuple[str, Program], ...] = (
    ("a cap on the requests of a worker", Program((_CAP,), (_FEWEST,))),
    ("a cap on the requests of a worker, shortest prompt first", Program((_CAP,), (_FEWEST,), order=_SHORTEST)),
    ("a worker is full at some KV use", Program((_SATURATED,), (_FEWEST,))),
    ("a worker is full at some KV use, shortest prompt first", Program((_SATURATED,), (_FEWEST,), order=_SHORTEST)),
    ("a cap on the prompt tokens of a worker", Program((_TOKENS,), (_FEWEST,))),
    ("fewest tokens, a bonus for cached ones", Program((), (Rank(_CACHED),))),
)
"""HAProxy's ``maxconn``, the saturation detector of the Kubernetes inference gateway (KV use 0.8), token-based limits,
and load against cache affinity."""


class TunedBaselineProposer:
    """Every family in turn with a few values of its constants, then line searches on the best."""

    name = "tuned-baseline"

    def __init__(self, seed: int, offered: Set[str] = frozenset(QUANTITIES)) -> None:
        self._seed = seed
        self._archive = Archive(ROUTING, from_json)
        self._families = [(name, program) for name, program in FAMILIES if _names(program) <= offered]

    def propose(self, history: History) -> Proposal:
        n = len(history.outcomes)
        rng = random.Random(f"tuned-baseline/{self._seed}/{n}")
        known = self._archive.known(history)
        program = self._step(known, rng) if n >= 2 * len(self._families) else None
        if program is None:
            program = _redrawn(self._families[n % len(self._families)][1], rng, fresh=n >= len(self._families))
        family = next(name for name, other in self._families if ROUTING.skeleton(other) == ROUTING.skeleton(program))
        return Proposal(emit(program), f"Tunes {family}. {why(program)}", None, (), family, to_json(program))

    def _step(self, known: Sequence[Known[Program]], rng: random.Random) -> Program | None:
        scored = sorted((one for one in known if one.effect is not None), key=lambda one: one.effect or 0.0)
        best: dict[Hashable, Known[Program]] = {}
        for one in scored:
            best.setdefault(one.shape, one)
        leaders = list(best.values())[: 2 if rng.random() < 0.8 else len(best)]
        rng.shuffle(leaders)
        steps = (
            ROUTING.tuned(leader.program, [one for one in known if one.shape == leader.shape], rng)
            for leader in leaders
        )
        return next((step for step in steps if step is not None), None)


def _redrawn(program: Program, rng: random.Random, *, fresh: bool) -> Program:
    if not fresh:
        return program
    sampler = Sampler(rng)
    for site in sites(program):
        if isinstance(site.expr, Const):
            program = put(program, site.path, sampler.constant(site.expr.kind))
    return program


def _names(program: Program) -> set[str]:
    return {node.name for site in sites(program) for node in walk(site.expr) if isinstance(node, Field)}
