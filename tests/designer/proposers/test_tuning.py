"""Line searches over the constants of a program, against functions whose lowest point is known."""

import math
import random

from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Times, sites
from designer.proposers.tuning import ROUTING


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


def descend(start: Program, steps: int) -> list[tuple[Program, float]]:
    known: list[tuple[Program, float]] = [(start, bowl(start))]
    for n in range(steps):
        best = min(known, key=lambda pair: pair[1])[0]
        step = ROUTING.tuned(best, known, random.Random(n))
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
    first = ROUTING.tuned(start, [(start, 0.0)], random.Random(1))
    assert first is not None
    assert ROUTING.tuned(start, [(start, 0.0), (first, None)], random.Random(1)) is None


def test_a_program_without_constants_cannot_be_tuned() -> None:
    bare = Program((), (Rank(Field("worker.num_inflight_requests")),))
    assert ROUTING.tuned(bare, [(bare, 0.0)], random.Random(0)) is None
    assert ROUTING.shaken(bare, random.Random(0)) is None


def test_all_constants_move_at_once_and_the_structure_stays() -> None:
    moved = ROUTING.shaken(program(0.8), random.Random(3))
    assert moved is not None
    assert ROUTING.skeleton(moved) == ROUTING.skeleton(program(0.8))
    before, after = constants(program(0.8)), constants(moved)
    assert all(before[kind] != after[kind] for kind in before)
