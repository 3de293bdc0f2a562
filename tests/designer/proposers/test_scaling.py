"""Scaling programs: their rules, their constants, and the way there and back."""

import random

import pytest

from designer.proposers.grammar import Const, GrammarError
from designer.proposers.scaling import (
    CONSTANTS,
    ScalingProgram,
    canonical,
    check,
    constants,
    from_json,
    mutate,
    random_scaling,
    to_json,
    with_constants,
)

PROGRAMS = [random_scaling(random.Random(n)) for n in range(80)]


def test_random_programs_keep_the_rules_and_survive_json() -> None:
    for program in PROGRAMS:
        assert canonical(check(program)) == program
        assert constants(from_json(to_json(program))) == constants(program)


def test_constants_are_replaced_by_name() -> None:
    for program in PROGRAMS:
        changed = with_constants(program, {"hold_seconds": Const("hold_seconds", 7.0)})
        assert constants(changed) == {**constants(program), "hold_seconds": Const("hold_seconds", 7.0)}
        assert with_constants(changed, constants(program)) == program


def test_mutation_changes_something_and_says_what() -> None:
    rng = random.Random(1)
    for program in PROGRAMS:
        changed, words = mutate(program, rng)
        assert check(changed) != program
        assert words


def test_constants_are_within_their_ranges() -> None:
    for program in PROGRAMS:
        for constant in constants(program).values():
            kind = CONSTANTS[constant.kind]
            assert kind.low <= constant.value <= kind.high
            assert kind.value_at(kind.position_of(constant.value)) == pytest.approx(constant.value)


def test_a_signal_twice_is_refused() -> None:
    one = PROGRAMS[0]
    with pytest.raises(GrammarError, match="one to 2 different signals"):
        check(ScalingProgram((one.signals[0], one.signals[0]), "sum", one.spare, one.hold, one.lead))
    with pytest.raises(GrammarError, match="not a scaling program"):
        from_json({"scaling": {"signals": [["moon", 1.0]]}})
