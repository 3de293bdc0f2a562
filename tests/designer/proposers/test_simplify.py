import random

from designer.proposers.behaviour import answers, decide_alike, signature
from designer.proposers.grammar import Const, Field, Larger, Limit, Program, Rank, Sum, Times, canonical, check, size
from designer.proposers.sampling import random_program
from designer.proposers.simplify import simplified
from tests.support.programs import HEAD_ROOM

REQUESTS = Field("worker.num_inflight_requests")
TOKENS = Field("worker.num_inflight_tokens")
CAPACITY = Field("worker.kv_capacity_tokens")
PROMPT = Field("request.num_prompt_tokens")


def test_what_decides_nothing_goes() -> None:
    needless = canonical(
        Program(
            limits=(Limit(TOKENS, Times(Const("usable_share", 0.9), CAPACITY)),),
            choice=(Rank(Times(Const("weight", 3.0), Sum((TOKENS, PROMPT)))), Rank(TOKENS)),
            order=(Rank(PROMPT), Rank(Larger(PROMPT, PROMPT))),
        )
    )
    plain = Program(
        limits=(Limit(TOKENS, Times(Const("usable_share", 0.9), CAPACITY)),),
        choice=(Rank(TOKENS),),
        order=(Rank(PROMPT),),
    )
    assert simplified(needless) == plain


def test_an_order_of_a_queue_that_is_never_held_goes() -> None:
    program = Program(choice=(Rank(REQUESTS),), order=(Rank(PROMPT),))
    assert simplified(program) == Program(choice=(Rank(REQUESTS),))


def test_what_decides_something_stays() -> None:
    assert simplified(HEAD_ROOM).limits
    assert simplified(HEAD_ROOM).order == HEAD_ROOM.order


def test_simplified_programs_decide_alike_and_are_no_larger() -> None:
    rng = random.Random(5)
    for _ in range(12):
        program = random_program(rng)
        smaller = check(simplified(program))
        assert signature(smaller) == signature(program)
        assert size(smaller) <= size(program)
        assert simplified(smaller) == smaller


def test_behaviours_are_told_apart() -> None:
    known = list(answers(HEAD_ROOM))
    assert decide_alike(HEAD_ROOM, known)
    assert not decide_alike(Program(choice=HEAD_ROOM.choice, order=HEAD_ROOM.order), known)
    assert not decide_alike(HEAD_ROOM, known[:-1])
    reversed_order = Program(HEAD_ROOM.limits, HEAD_ROOM.choice, "turn", (Rank(PROMPT, largest_first=True),))
    assert not decide_alike(reversed_order, known)
