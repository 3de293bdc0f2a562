import random

import pytest

from designer.proposers.behaviour import requests, situations
from designer.proposers.emit import constants, emit, with_constants
from designer.proposers.founders import FOUNDERS
from designer.proposers.grammar import Program
from designer.proposers.interpret import Router, order_key
from designer.proposers.sampling import random_program
from policies.conformance import Effort, check_policy, check_source
from policies.loader import PolicySpec, load_source
from tests.support.programs import EXPERT, HEAD_ROOM, load

_rng = random.Random(11)
SAMPLES = [*(program for _, program in FOUNDERS), HEAD_ROOM, EXPERT, *(random_program(_rng) for _ in range(120))]


def test_emitted_code_decides_as_the_interpreter_does() -> None:
    states, held = situations(5, 40), requests(5, 20)
    for program in SAMPLES:
        policy = load(emit(program), seed=9)
        router = Router(program, random.Random(9))
        for state in states:
            chosen = policy.route(state.request, state.candidates, state.pool)
            assert chosen is router.route(state.request, state.candidates, state.pool), emit(program)
        for request in held:
            assert policy.key(request) == order_key(program)(request), emit(program)
            assert policy.admit(request, states[0].pool) is True


def test_emitted_code_is_short_and_keeps_the_static_rules() -> None:
    for program in SAMPLES:
        source = emit(program)
        assert check_source(source) == [], source
        assert len(source.splitlines()) < 130
        assert max(len(line) for line in source.splitlines()) <= 120


@pytest.mark.parametrize("program", [HEAD_ROOM, EXPERT, SAMPLES[10], SAMPLES[11]])
def test_emitted_code_keeps_the_dynamic_rules(program: Program) -> None:
    spec = PolicySpec("emitted.py")
    loaded = load_source(emit(program).encode(), spec, random.Random(0), path="emitted.py", name="emitted")
    assert check_policy(loaded, Effort(num_situations=150, num_steps=150, subprocess=False)) == []


def test_constants_are_parameters_of_the_module() -> None:
    assert constants(EXPERT) == {"usable_share": 0.9375, "tokens_each": 8.0}
    source = emit(EXPERT)
    changed = emit(with_constants(EXPERT, {"usable_share": 0.8}))
    assert "usable_share: float = 0.9375" in source
    assert changed == source.replace("0.9375", "0.8").replace("0.938", "0.8")
    loaded = load_source(
        source.encode(), PolicySpec("x", params={"usable_share": 0.8}), random.Random(0), path="x", name="x"
    )
    assert loaded.params == {"usable_share": 0.8, "tokens_each": 8.0}


def test_the_docstring_says_in_words_what_the_policy_does() -> None:
    text = " ".join(emit(EXPERT).split('"""')[1].split())
    assert "a worker may take a request within this limit: the " in text
    assert ", at most 0.9375 times the worker's KV cache." in text
    assert "lowest first by the request's prompt tokens; then by arrival." in text
    assert "among equals one of them at random" in text
    assert "Why it should work: A request that waits here" in text
