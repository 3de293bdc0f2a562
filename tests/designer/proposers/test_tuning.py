"""Line searches over the constants of a program, against functions whose lowest point is known."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Times, from_json, sites, to_json
from designer.proposers.parts import JOINT, Joint
from designer.proposers.protocol import History, Outcome, Proposal
from designer.proposers.scaling import make
from designer.proposers.tuning import ROUTING, Archive, Known


def program(share: float, cap: float = 64.0) -> Program:
    kept = Times(Const("usable_share", share), Field("worker.kv_capacity_tokens"))
    limits = (
        Limit(Field("worker.num_inflight_tokens"), kept),
        Limit(Field("worker.num_inflight_requests"), Const("most_requests", cap)),
    )
    return Program(limits, (Rank(Field("worker.num_inflight_requests")),))


def constants(of: Program) -> dict[str, float]:
    return {site.expr.kind: site.expr.value for site in sites(of) if isinstance(site.expr, Const)}


def bowl(of: Program) -> float:
    """Lowest at a share of 0.87 and a cap of 30."""
    values = constants(of)
    return (values["usable_share"] - 0.87) ** 2 * 10 + (math.log(values["most_requests"] / 30.0)) ** 2 * 0.2


def relatives(known: Sequence[tuple[Program, float | None]]) -> list[Known[Program]]:
    return [ROUTING.known(*pair) for pair in known]


def joints(known: Sequence[tuple[Joint, float | None]]) -> list[Known[Joint]]:
    return [JOINT.known(*pair) for pair in known]


def descend(start: Program, steps: int) -> list[tuple[Program, float]]:
    known: list[tuple[Program, float]] = [(start, bowl(start))]
    for n in range(steps):
        best = min(known, key=lambda pair: pair[1])[0]
        step = ROUTING.tuned(best, relatives(known), random.Random(n))
        if step is None:
            break
        known.append((step, bowl(step)))
    return known


def test_a_line_search_comes_to_the_lowest_point_in_few_steps() -> None:
    known = descend(program(0.65, 200.0), 24)
    best = constants(min(known, key=lambda pair: pair[1])[0])
    assert abs(best["usable_share"] - 0.87) < 0.02
    assert 26.0 < best["most_requests"] < 35.0


def test_it_ends_when_every_constant_is_settled() -> None:
    known = descend(program(0.65, 200.0), 200)
    assert len(known) < 60
    assert len({repr(candidate) for candidate, _ in known}) == len(known)


def test_a_line_waits_for_the_score_of_its_neighbour() -> None:
    start = Program((Limit(Field("worker.num_inflight_requests"), Const("most_requests", 64.0)),))
    first = ROUTING.tuned(start, relatives([(start, 0.0)]), random.Random(1))
    assert first is not None
    assert ROUTING.tuned(start, relatives([(start, 0.0), (first, None)]), random.Random(1)) is None


def test_a_program_without_constants_cannot_be_tuned() -> None:
    bare = Program((), (Rank(Field("worker.num_inflight_requests")),))
    assert ROUTING.tuned(bare, relatives([(bare, 0.0)]), random.Random(0)) is None
    assert ROUTING.shaken(bare, random.Random(0)) is None


def test_all_constants_move_at_once_and_the_structure_stays() -> None:
    moved = ROUTING.shaken(program(0.8), random.Random(3))
    assert moved is not None
    assert ROUTING.skeleton(moved) == ROUTING.skeleton(program(0.8))
    before, after = constants(program(0.8)), constants(moved)
    assert all(before[kind] != after[kind] for kind in before)


def rule(carried: float) -> Joint:
    return Joint((("autoscaling", make(("requests_ahead",), "larger", {"rate_per_replica": carried})),))


def carried_by(program: Joint) -> float:
    return float(dict(program.parts)["autoscaling"]["rate_per_replica"])


def test_a_bracket_is_sought_upwards_and_then_below() -> None:
    known: list[tuple[Joint, float | None]] = [(rule(4.0), None)]
    up = JOINT.bracketed(rule(4.0), joints(known))
    assert up is not None
    assert carried_by(up) > 4.0
    known.append((up, None))
    assert JOINT.bracketed(rule(4.0), joints(known)) is None, "what is above must have its score first"
    known = [(rule(4.0), 0.0), (up, 1.0)]
    down = JOINT.bracketed(rule(4.0), joints(known))
    assert down is not None
    assert carried_by(down) < 4.0
    assert JOINT.bracketed(rule(4.0), joints([*known, (down, 1.0)])) is None
    further = JOINT.bracketed(up, joints([(rule(4.0), 0.0), (up, -1.0)]))
    assert further is not None
    assert carried_by(further) > carried_by(up)


def test_a_broken_promise_says_where_not_to_go_and_no_more() -> None:
    """A third worse or a thousand times, the next point is the same: between the best and its neighbours."""

    def following(beyond: float) -> float:
        known: list[tuple[Joint, float | None]] = [(rule(3.5), -1.2), (rule(7.0), -1.5), (rule(14.0), beyond)]
        step = JOINT.tuned(rule(7.0), joints(known), random.Random(1))
        assert step is not None
        return carried_by(step)

    assert 3.5 < following(-1.0) < 14.0
    assert following(-1.0) == following(0.0) == following(6.0)
    assert following(-1.0) != following(-1.4), "within the cliff the bowl has a shape"


def test_a_program_is_read_once_however_often_it_is_asked_about() -> None:
    read: list[str] = []

    def reading(data: Mapping[str, Any]) -> Program:
        read.append(repr(data))
        return from_json(data)

    outcomes: list[Outcome] = []
    archive = Archive(ROUTING, reading)
    for n in range(12):
        one = Proposal(f"module {n}", "", None, program=to_json(program(round(0.7 + n / 100, 2))))
        outcomes.append(Outcome(one, "scored", {1: 0.9 - n / 100}))
        known = archive.known(History({1: 1.0}, tuple(outcomes)))
        assert [round(math.exp(k.effect or 0.0), 9) for k in known] == [round(0.9 - i / 100, 9) for i in range(n + 1)]
    assert len(read) == 12
    assert len({k.shape for k in known}) == 1
    failed = History({1: 1.0}, (*outcomes, Outcome(one, "failed"), Outcome(Proposal("by hand", "", None))))
    assert len(archive.known(failed)) == 12
