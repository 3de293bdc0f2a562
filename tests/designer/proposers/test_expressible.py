"""The grammar can say what the paper's authors and its expert said; the search starts from neither."""

import itertools
import random

from designer.proposers.behaviour import Situation, requests, signature, situations
from designer.proposers.founders import founders
from designer.proposers.vocabulary import QUANTITIES
from policies.contract import Candidate, Request
from policies.joint import expert, head_room
from tests.support.programs import EXPERT, HEAD_ROOM, load_program


def _on_block_boundaries(state: Situation) -> Situation:
    """Blocks of 16 tokens hold 16: the published rule rounds each sum up to blocks, the grammar counts tokens."""
    for candidate in state.candidates:
        worker = candidate.worker
        for name in ("num_inflight_tokens", "num_inflight_prefill_tokens"):
            setattr(worker, name, getattr(worker, name) // 16 * 16)
    return state


def _margin(request: Request, candidate: Candidate) -> float:
    worker = candidate.worker
    committed = worker.num_inflight_tokens + 0.6 * worker.num_inflight_prefill_tokens
    need = 1.6 * request.num_prompt_tokens + 8 * worker.num_inflight_requests
    return 0.97 * worker.kv_capacity_tokens - committed - need


def test_head_room_is_a_program_of_the_grammar() -> None:
    """Same decisions wherever rounding cannot matter: no worker within four blocks of its limit or idle."""
    program = load_program(HEAD_ROOM)
    published = head_room.create(random.Random(0), oversize=False, ageing=0.0)
    compared = held = 0
    for state in map(_on_block_boundaries, situations(21, 600)):
        able = [_margin(state.request, candidate) for candidate in state.candidates]
        committed = sorted(_margin(state.request, c) - 0.97 * c.worker.kv_capacity_tokens for c in state.candidates)
        gaps = [b - a for a, b in itertools.pairwise(committed)]
        idle = any(candidate.worker.num_inflight_requests == 0 for candidate in state.candidates)
        if idle or min(map(abs, able)) < 64 or min(gaps) < 64:
            continue
        chosen = program.route(state.request, state.candidates, state.pool)
        assert chosen is published.route(state.request, state.candidates, state.pool)
        compared += 1
        held += chosen is None
    assert compared > 200
    assert held > 20
    for request in requests(21, 50):
        assert program.key(request) == published.key(request)


def test_the_expert_is_a_program_of_the_grammar() -> None:
    """The same decisions, random ties included, wherever no worker is idle."""
    program = load_program(EXPERT, seed=4)
    published = expert.create(random.Random(4))
    compared = held = 0
    for state in situations(22, 400):
        if any(candidate.worker.num_inflight_requests == 0 for candidate in state.candidates):
            continue
        chosen = program.route(state.request, state.candidates, state.pool)
        assert chosen is published.route(state.request, state.candidates, state.pool)
        compared += 1
        held += chosen is None
    assert compared > 200
    assert held > 20
    for request in requests(22, 50):
        assert program.key(request) == published.key(request)


def test_the_search_starts_from_neither() -> None:
    published = {signature(HEAD_ROOM), signature(EXPERT)}
    starts = [program for _, program in founders(frozenset(QUANTITIES))]
    assert published.isdisjoint(map(signature, starts))
    assert not any(program.limits for program in starts)
