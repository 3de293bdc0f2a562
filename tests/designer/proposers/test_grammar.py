import json
import random

import pytest

from designer.proposers.grammar import (
    MAX_NODES,
    Const,
    Difference,
    Expr,
    Field,
    GrammarError,
    Limit,
    Program,
    Rank,
    Share,
    Sum,
    Times,
    canonical,
    check,
    from_json,
    put,
    sites,
    size,
    to_json,
    unit_of,
)
from designer.proposers.sampling import random_program
from tests.support.programs import EXPERT, HEAD_ROOM

PROMPT = Field("request.num_prompt_tokens")
ARRIVAL = Field("request.arrival_time")
REQUESTS = Field("worker.num_inflight_requests")
TOKENS = Field("worker.num_inflight_tokens")
TTFT, TPOT = Field("worker.ttft_ewma"), Field("worker.tpot_ewma")
CAPACITY = Field("worker.kv_capacity_tokens")


@pytest.mark.parametrize(
    ("expr", "unit"),
    [
        (PROMPT, "tokens"),
        (Times(Const("ageing", 1.0), ARRIVAL), "tokens"),
        (Times(Const("tokens_each", 8.0), REQUESTS), "tokens"),
        (Times(Field("worker.tpot_ewma"), TOKENS), "seconds"),
        (Share(TOKENS, CAPACITY), "fraction"),
        (Difference(CAPACITY, TOKENS), "tokens"),
        (Times(Const("weight", 2.0), Share(TOKENS, CAPACITY)), "fraction"),
    ],
)
def test_expressions_have_units(expr: Expr, unit: str) -> None:
    assert unit_of(expr) == unit


@pytest.mark.parametrize(
    "expr",
    [
        Sum((PROMPT, ARRIVAL)),
        Sum((PROMPT,)),
        Share(TOKENS, REQUESTS),
        Times(TOKENS, PROMPT),
        Times(PROMPT, Const("weight", 2.0)),
        Field("request.num_output_tokens"),
        Const("luck", 1.0),
    ],
)
def test_nonsense_is_a_type_error(expr: Expr) -> None:
    with pytest.raises(GrammarError):
        unit_of(expr)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program(limits=(Limit(TOKENS, Const("most_requests", 3.0)),)), "compares tokens with requests"),
        (Program(limits=(Limit(PROMPT, CAPACITY),)), "load of a worker"),
        (Program(limits=(Limit(TTFT, Const("threshold_seconds", 3.0)),)), "what only work can change"),
        (Program(limits=(Limit(Sum((TTFT, Times(TPOT, TOKENS))), Const("threshold_seconds", 3.0)),)), "worker.ttft"),
        (Program(choice=(Rank(PROMPT),)), "choice between candidates"),
        (Program(order=(Rank(TOKENS),)), "when it is queued"),
        (Program(limits=(Limit(REQUESTS, Const("most_requests", 1e6)),)), "outside"),
        (Program(choice=(Rank(Sum((TOKENS,) * (MAX_NODES + 1))),)), "nodes"),
        (Program(ties="first"), "ties"),  # type: ignore[arg-type]
    ],
)
def test_a_program_that_breaks_a_rule_is_refused(program: Program, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        check(program)


def test_random_programs_survive_json_and_canonical_form() -> None:
    rng = random.Random(3)
    for _ in range(200):
        program = random_program(rng)
        assert from_json(json.loads(json.dumps(to_json(program)))) == program
        assert canonical(program) == program


def test_json_of_something_else_is_refused() -> None:
    for data in ({}, {"limits": 3}, {**to_json(EXPERT), "order": [{"by": {"power": []}, "largest_first": False}]}):
        with pytest.raises(GrammarError):
            from_json(data)


def test_every_site_can_be_replaced_in_place() -> None:
    for site in sites(HEAD_ROOM):
        assert put(HEAD_ROOM, site.path, site.expr) == HEAD_ROOM
    changed = put(HEAD_ROOM, ("order", 0, "by"), ARRIVAL)
    assert changed.order == (Rank(ARRIVAL),)
    assert changed.limits == HEAD_ROOM.limits


def test_canonical_form_flattens_sorts_and_drops_repeats() -> None:
    nested = Program(choice=(Rank(Sum((Sum((REQUESTS, REQUESTS)), REQUESTS))), Rank(REQUESTS)))
    assert canonical(nested) == Program(choice=(Rank(REQUESTS),))


def test_published_policies_are_within_the_size_bound() -> None:
    assert size(check(HEAD_ROOM)) <= MAX_NODES
    assert size(check(EXPERT)) <= MAX_NODES
