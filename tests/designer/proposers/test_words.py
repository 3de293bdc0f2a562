"""What the docstrings of emitted policies say: whole sentences, whatever the program."""

import random

import pytest

from designer.proposers.emit import emit
from designer.proposers.grammar import Difference, Field, Program, Rank
from designer.proposers.sampling import random_program
from designer.proposers.words import paragraphs, phrase, title, why

_PROMPT = Field("request.num_prompt_tokens")
_EXPECTED = Field("request.expected_output_tokens")
_REQUESTS = Field("worker.num_inflight_requests")
_ARRIVAL = Field("request.arrival_time")


def test_a_difference_is_not_mistaken_for_a_rank() -> None:
    order = (Rank(Difference(_PROMPT, _EXPECTED)),)
    text = paragraphs(Program(choice=(Rank(_REQUESTS),), order=order))[2]
    assert text.endswith(
        "lowest first by the request's prompt tokens minus its expected output tokens; then by arrival."
    )
    assert "less" not in phrase(order[0].by)


@pytest.mark.parametrize(
    ("largest_first", "words"), [(True, "latest arrival first"), (False, "earliest arrival first")]
)
def test_arrivals_are_early_or_late(largest_first: bool, words: str) -> None:
    text = paragraphs(Program(choice=(Rank(_REQUESTS),), order=(Rank(_ARRIVAL, largest_first),)))[2]
    assert text.endswith(f": {words}; then by arrival.")


def test_without_a_choice_the_workers_take_turns_or_are_drawn() -> None:
    assert paragraphs(Program(ties="turn"))[1] == "Choice: each in turn of the workers that may take it."
    assert paragraphs(Program(ties="random"))[1] == "Choice: any of the workers that may take it."


def test_a_bonus_for_what_is_cached_is_explained() -> None:
    cached = Field("candidate.num_cached_tokens")
    against_load = Program(choice=(Rank(Difference(Field("worker.num_inflight_tokens"), cached)),))
    for program in (against_load, Program(choice=(Rank(cached, True), Rank(_REQUESTS)))):
        assert "costs least where its beginning was seen" in why(program)
    assert "cached" not in why(Program(choice=(Rank(cached), Rank(_REQUESTS))))


def test_every_sentence_begins_and_ends_as_one() -> None:
    for n in range(60):
        program = random_program(random.Random(n))
        texts = [title(program), why(program), *filter(None, paragraphs(program))]
        for text in texts:
            assert text[0].isupper(), text
            assert text.endswith("."), text
            assert "  " not in text, text
        assert not any(wrong in " ".join(texts) for wrong in ("least of", "is at most", "; and with", "..")), texts


def test_a_heading_fits_its_line() -> None:
    headings = [emit(random_program(random.Random(n))).split("\n")[0] for n in range(100)]
    assert max(map(len, headings)) <= 3 + 110
    assert sum("…" in heading for heading in headings) < 10
