"""Batch programs: their rules, their constants, and the way there and back."""

import random
from itertools import pairwise

import pytest

from designer.proposers.batching import (
    ENGINE_FCFS,
    BatchProgram,
    Order,
    Term,
    canonical,
    check,
    constants,
    cross,
    from_json,
    mutate,
    parameter_name,
    random_batch,
    reductions,
    to_json,
    with_constants,
)
from designer.proposers.grammar import Const, GrammarError

PROGRAMS = [random_batch(random.Random(n)) for n in range(120)]


def test_random_programs_keep_the_rules_and_survive_json() -> None:
    for program in PROGRAMS:
        assert from_json(to_json(check(program))) == program
        assert (canonical(program.waiting), canonical(program.victim)) == (program.waiting, program.victim)


def test_constants_are_replaced_by_place() -> None:
    for program in PROGRAMS:
        found = constants(program)
        lowered = {key: Const(constant.kind, 1.0) for key, constant in found.items()}
        assert constants(with_constants(program, lowered)) == lowered
        assert with_constants(with_constants(program, lowered), found) == program
        assert len({parameter_name(key, constant) for key, constant in found.items()}) == len(found)


def test_mutation_and_crossover_keep_the_rules_and_say_what_they_did() -> None:
    rng = random.Random(1)
    for program, other in pairwise(PROGRAMS):
        changed, words = mutate(program, rng)
        assert check(changed) != program
        assert words
        child, words = cross(program, other, rng)
        assert check(child).waiting in (program.waiting, other.waiting)
        assert words


def test_what_decides_nothing_is_left_out() -> None:
    alone = Term("num_output_tokens", Const("output_weight", 3.0))
    assert canonical(Order((alone,))).terms == (Term("num_output_tokens"),)
    assert canonical(Order((Term("arrival_time"),))).terms == ()
    assert canonical(Order((Term("arrival_time", less=True),))).terms == (Term("arrival_time", less=True),)


def test_a_reduction_is_vllms_own_rule_in_one_place() -> None:
    limits = (Const("prefill_share", 0.5),)
    program = BatchProgram(Order((Term("num_prompt_tokens"),)), Order(priority_first=True), "share", limits)
    assert dict(reductions(program)) == {
        "the order of waiting": BatchProgram(Order(), program.victim, "share", limits),
        "the choice of victims": BatchProgram(program.waiting, Order(), "share", limits),
        "the share of prefill": BatchProgram(program.waiting, program.victim),
    }
    assert list(reductions(ENGINE_FCFS)) == []


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (BatchProgram(Order((Term("num_prompt_tokens"), Term("num_prompt_tokens")))), "at most 3 different"),
        (BatchProgram(Order((Term("num_prompt_tokens"), Term("arrival_time")))), "needs a weight"),
        (BatchProgram(Order((Term("num_prompt_tokens", Const("held_weight", 1.0)),))), "weighted by prompt_weight"),
        (BatchProgram(budget="share"), "not the budget of a step"),
        (BatchProgram(budget="share", limits=(Const("prefill_share", 2.0),)), "prefill_share = 2.0 is outside"),
    ],
)
def test_what_breaks_a_rule_is_refused(program: BatchProgram, complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        check(program)


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(GrammarError, match="not a batch program"):
        from_json({"waiting": {}})
