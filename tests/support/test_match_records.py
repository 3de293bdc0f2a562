"""The matcher finds what is wrong, and nothing when nothing is."""

from __future__ import annotations

from tests.support.match_records import match


def test_all_in_order() -> None:
    assert match("ab", "ba", "ab", "ab").is_clean


def test_an_answer_that_never_came_is_lost() -> None:
    assert match("a", "ab", "ab", "ab").lost == ["b"]


def test_a_request_the_gateway_never_heard_is_lost() -> None:
    assert match("ab", "ab", "a", "a").lost == ["b"]


def test_work_done_twice_is_duplicated() -> None:
    assert match("ab", "abb", "ab", "ab").duplicated == ["b"]


def test_an_arrival_without_an_end_hung() -> None:
    assert match("ab", "ab", "ab", "a").hung == ["b"]
