"""Scaling programs: their rules, their constants, and the way there and back."""

import random
from itertools import pairwise

import pytest

from designer.proposers.grammar import Const, GrammarError
from designer.proposers.scaling import (
    CONSTANTS,
    SIGNALS,
    ScalingProgram,
    carried_names,
    check,
    constants,
    cross,
    from_json,
    kind_of,
    looks_ahead,
    make,
    mutate,
    random_scaling,
    reductions,
    to_json,
    with_constants,
)

PROGRAMS = [random_scaling(random.Random(n)) for n in range(80)]


def test_random_programs_keep_the_rules_and_survive_json() -> None:
    for program in PROGRAMS:
        assert make(program.signals, program.combine, dict(program.values)) == check(program) == program
        assert from_json(to_json(program)) == program


def test_constants_are_replaced_by_name() -> None:
    for program in PROGRAMS:
        changed = with_constants(program, {"hold_seconds": Const("hold_seconds", 7.0)})
        assert constants(changed) == {**constants(program), "hold_seconds": Const("hold_seconds", 7.0)}
        assert with_constants(changed, constants(program)) == program


def test_mutation_and_crossover_change_something_and_say_what() -> None:
    rng = random.Random(1)
    for program, other in pairwise(PROGRAMS):
        changed, words = mutate(program, rng)
        assert check(changed) != program
        assert words
        child, words = cross(program, other, rng)
        assert check(child)
        assert words


def test_constants_are_within_their_ranges() -> None:
    for program in PROGRAMS:
        for constant in constants(program).values():
            kind = CONSTANTS[constant.kind]
            assert kind.low <= constant.value <= kind.high
            assert kind.value_at(kind.position_of(constant.value)) == pytest.approx(constant.value)


def test_only_what_looks_ahead_has_a_window() -> None:
    for program in PROGRAMS:
        assert ("window_seconds" in dict(program.values)) == looks_ahead(program.signals)


def test_two_signals_of_one_kind_have_a_constant_each() -> None:
    program = make(("arrivals", "requests_ahead"), "larger", {"rate_per_replica": 4.0, "rate_per_replica_2": 9.0})
    assert (program["rate_per_replica"], program["rate_per_replica_2"]) == (4.0, 9.0)
    assert kind_of("rate_per_replica_2") == "rate_per_replica"


def test_a_reduction_lacks_one_thing() -> None:
    program = make(("requests", "requests_ahead"), "larger", {"spare_replicas": 0.5, "hold_seconds": 60.0})
    found = dict(reductions(program))
    assert list(found) == [
        "the requests in flight and held",
        "the arrival rate expected when a change of size has its effect",
        "the look ahead",
        "the spare replicas",
        "the patience before shrinking",
    ]
    assert found["the requests in flight and held"].signals == ("requests_ahead",)
    assert found["the spare replicas"]["spare_replicas"] == 0.0
    assert all(check(smaller) != program for smaller in found.values())


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (ScalingProgram(("requests", "requests"), "sum", ()), "one to 2 different signals"),
        (ScalingProgram(("requests",), "sum", ()), "the constants of .* are requests_per_replica, spare_replicas"),
        (
            ScalingProgram(
                ("queued",), "sum", (("waiting_per_replica", 0.1), ("spare_replicas", 0.0), ("hold_seconds", 1.0))
            ),
            "waiting_per_replica = 0.1 is outside 0.5 to 64",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(program: ScalingProgram, complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        check(program)


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(GrammarError, match="not a scaling program"):
        from_json({"signals": ["moon"], "combine": "sum", "values": {}})


def test_a_signal_that_is_left_alone_keeps_its_own_constant() -> None:
    """Both are divided by a rate: with the first gone, the second is still divided by its own."""
    values = {"rate_per_replica": 2.0, "rate_per_replica_2": 8.0}
    program = make(("arrivals", "requests_ahead"), "larger", values)
    assert program["rate_per_replica_2"] == 8.0
    found = dict(reductions(program))
    assert found[SIGNALS["arrivals"].words]["rate_per_replica"] == 8.0
    assert found[SIGNALS["requests_ahead"].words]["rate_per_replica"] == 2.0


def _carried(program: ScalingProgram) -> dict[str, float]:
    return {name: program[key] for name, key in zip(program.signals, carried_names(program.signals), strict=True)}


def test_a_signal_keeps_what_a_replica_carries_of_it_whatever_is_beside_it() -> None:
    """Also where both are rates, and the name of a constant depends on which signals there are."""
    rng = random.Random(5)
    both = make(("arrivals", "requests_ahead"), "larger", {"rate_per_replica": 2.0, "rate_per_replica_2": 8.0})
    ahead = make(("requests_ahead",), "larger", {"rate_per_replica": 8.0})
    kept = {"measures something else", "measures something besides", "measures less", "measures what two parents do"}
    seen = set()
    for _ in range(300):
        parent = rng.choice((both, ahead))
        child, words = mutate(parent, rng) if rng.random() < 0.7 else cross(both, both, rng)
        if words in kept:
            seen.add((words, len(child.signals)))
            expected = _carried(parent) if words != "measures what two parents do" else _carried(both)
            same = {name: value for name, value in _carried(child).items() if name in expected}
            if words != "measures something else":
                assert same == {name: expected[name] for name in same}, (words, child)
    assert {("measures less", 1), ("measures something besides", 2)} <= seen
