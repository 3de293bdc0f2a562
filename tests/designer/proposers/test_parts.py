"""Programs of several parts: one module for all their slots that keeps the contract and decides as they mean."""

import random
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from designer.ablation import components
from designer.proposers.batching import BatchProgram, Order, Term
from designer.proposers.behaviour import requests, situations
from designer.proposers.grammar import Field, GrammarError, Program, Rank
from designer.proposers.interpret import Router, order_key
from designer.proposers.interpret_batch import Batcher
from designer.proposers.interpret_scaling import Scaler
from designer.proposers.known_rules import PLAIN_ROUTER
from designer.proposers.parts import JOINT, PARTS, Joint, PartName, behaviour, emit_joint, from_json, to_json
from designer.proposers.roster import parse_target
from designer.proposers.sampling import Sampler
from designer.proposers.scaling import ScalingProgram, make
from designer.subject import subject_of_source
from policies.conformance import Effort, check_policy, check_source
from policies.contract import slots_of
from policies.loader import LoadedPolicy, PolicySpec, load_source
from policies.situations import engine_views
from tests.designer.proposers.test_emit_scaling import pool as scaling_pool

TARGETS = ("scheduling", "autoscaling", "batch", "routing,batch", "scheduling,autoscaling", "routing,autoscaling,batch")
SLOTS: dict[PartName, tuple[str, ...]] = {
    "routing": ("routing", "scheduling"),
    "scheduling": ("routing", "scheduling"),
    "autoscaling": ("autoscaling",),
    "batch": ("batch",),
}


@cache
def sampled(target: str, count: int) -> list[Joint]:
    """Samples, then mutants of them."""
    sampler = Sampler(random.Random(f"parts/{target}"))
    found = [Joint(tuple((name, PARTS[name].sample(sampler)) for name in parse_target(target))) for _ in range(count)]
    for program in tuple(found):
        name, part = sampler.rng.choice(program.parts)
        found.append(program.with_part(name, PARTS[name].mutate(part, sampler)[0]))
    return found


def loaded(program: Joint) -> LoadedPolicy:
    source = emit_joint(program).encode()
    return load_source(source, PolicySpec("j.py"), random.Random(9), path="j.py", name="j")


def _routes_alike(policy: Any, program: Program) -> None:
    router = Router(program, random.Random(9))
    for state in situations(5, 20):
        chosen = policy.route(state.request, state.candidates, state.pool)
        assert chosen is router.route(state.request, state.candidates, state.pool), program
    for request in requests(5, 10):
        assert policy.key(request) == order_key(program)(request), program
        assert policy.admit(request, scaling_pool(0.0)) is True


def _scales_alike(policy: Any, program: ScalingProgram) -> None:
    meant, rng = Scaler(program), random.Random(1)
    for n in range(20):
        seen = scaling_pool(
            5.0 * n, rng.uniform(0, 40), rng.randrange(300), rng.randrange(60), 100 * n + rng.randrange(99)
        )
        assert policy.desired_replicas(seen) == meant.desired_replicas(seen), program


def _batches_alike(policy: Any, program: BatchProgram) -> None:
    meant = Batcher(program)
    for engine, seen in engine_views(3, 12):
        assert policy.waiting_key(seen) == meant.waiting_key(seen), program
        assert policy.victim_key(seen) == meant.victim_key(seen), program
        assert policy.prefill_budget(engine) == meant.prefill_budget(engine), program


@pytest.mark.parametrize("target", TARGETS)
def test_a_module_decides_as_each_of_its_parts_means(target: str) -> None:
    for program in sampled(target, 12):
        policy = loaded(program).policy
        for name, part in program.parts:
            if name == "autoscaling":
                _scales_alike(policy, part)
            elif name == "batch":
                _batches_alike(policy, part)
            else:
                router = Program(PLAIN_ROUTER.limits, PLAIN_ROUTER.choice, order=part.order)
                _routes_alike(policy, router if name == "scheduling" else part)


@pytest.mark.parametrize("target", TARGETS)
def test_a_module_keeps_the_static_rules_and_fills_its_slots(target: str) -> None:
    for program in sampled(target, 12):
        source = emit_joint(program)
        assert check_source(source) == [], source
        assert max(map(len, source.splitlines())) <= 120, source
        assert slots_of(loaded(program).policy) == tuple(slot for name, _ in program.parts for slot in SLOTS[name])
        assert all(parameter in source for parameter in ("Why it should work", "Written by the designer."))


@pytest.mark.parametrize("target", TARGETS)
def test_a_module_keeps_the_dynamic_rules(target: str) -> None:
    quick = Effort(num_situations=40, num_steps=40, subprocess=False)
    for program in sampled(target, 12)[::6]:
        assert check_policy(loaded(program), quick) == [], emit_joint(program)


@pytest.mark.parametrize("target", TARGETS)
def test_programs_survive_json_and_compare_by_what_they_decide(target: str) -> None:
    for program, other in pairwise(sampled(target, 12)):
        assert from_json(to_json(program)) == program
        assert behaviour(program) == behaviour(from_json(to_json(program)))
        if behaviour(program) != behaviour(other):
            assert program != other


def test_the_constants_of_all_parts_are_tuned() -> None:
    program = next(
        p
        for p in sampled("routing,autoscaling,batch", 12)
        if {key[0] for key in JOINT.constants(p)} == SLOTS.keys() - {"scheduling"}
    )
    constants = JOINT.constants(program)
    lowest = {key: JOINT.constant_at(constant.kind, 0.0) for key, constant in constants.items()}
    changed = JOINT.replaced(program, lowest)
    assert changed is not None
    assert dict(JOINT.constants(changed)) == lowest
    assert JOINT.skeleton(changed) == JOINT.skeleton(program)


def test_the_parameters_of_a_module_are_the_constants_of_its_parts() -> None:
    for program in sampled("routing,autoscaling,batch", 12):
        values = {constant.value for constant in JOINT.constants(program).values()}
        assert set(loaded(program).params.values()) == values


@pytest.mark.parametrize("data", [{}, {"parts": {}}, {"parts": {"moon": {}}}, {"parts": {"batch": {}}}])
def test_what_is_no_program_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="not a"):
        from_json(data)


def test_a_joint_program_is_taken_apart_part_by_part_and_within_parts() -> None:
    program = Joint(
        (
            ("scheduling", Program(order=(Rank(Field("request.num_prompt_tokens")),))),
            ("autoscaling", make(("requests_ahead",), "larger", {"spare_replicas": 0.5, "hold_seconds": 60.0})),
            ("batch", BatchProgram(Order((Term("num_prompt_tokens"),)))),
        )
    )
    winner = subject_of_source(emit_joint(program), "winner")
    found = {component.words: component.without.parts[0].source for component in components(winner, to_json(program))}
    assert list(found) == [
        "the scheduling rules",
        "the autoscaling rules",
        "the look ahead",
        "the spare replicas",
        "the patience before shrinking",
        "the batch rules",
    ], "of an order of one rank, and a batch rule of one rule, nothing is left when that is left out"
    assert "self._requests_ahead" not in found["the autoscaling rules"]
    assert all(check_source(source) == [] for source in found.values())
