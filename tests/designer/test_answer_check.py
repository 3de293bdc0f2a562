"""What a child says counts only if it has the form of a result, and can always be stored and shown."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from designer.answer_check import BadAnswerError, one_line, scored, violations

GOOD: dict[str, Any] = {
    "score": 1.5,
    "summary": {"num_policy_failures": 0},
    "decisions": "a" * 64,
    "num_requests": 3,
    "identities": [{"name": "x", "policy_hash": "b" * 64}],
}


def test_a_good_answer_comes_through() -> None:
    found = scored(GOOD)
    assert (found.score, found.decisions, found.policy_hashes) == (1.5, "a" * 64, ("b" * 64,))


BAD: list[tuple[str, Any, str]] = [
    ("score", None, "another form"),
    ("score", True, "another form"),
    ("score", "1.5", "another form"),
    ("score", 10**400, "another form"),
    ("score", float("nan"), "no time"),
    ("score", -1, "no time"),
    ("summary", [], "another form"),
    ("summary", {}, "another form"),
    ("summary", {"num_policy_failures": float("inf")}, "another form"),
    ("summary", {"num_policy_failures": -1}, "another form"),
    ("summary", {"num_policy_failures": 0, "more": "x" * 70_000}, "another form"),
    ("summary", {"num_policy_failures": 2, "policy_failure": "\ud800\x1b[2J"}, "2 of its answers were wrong"),
    ("decisions", "short", "another form"),
    ("decisions", "A" * 64, "another form"),
    ("decisions", ["a" * 64], "another form"),
    ("identities", {"a": 1}, "another form"),
    ("identities", 3, "another form"),
    ("identities", [{"policy_hash": "\ud800" * 64}], "another form"),
]


@pytest.mark.parametrize(("key", "value", "reason"), BAD, ids=[f"{key}-{n}" for n, (key, _, _) in enumerate(BAD)])
def test_another_form_is_no_result(key: str, value: Any, reason: str) -> None:
    with pytest.raises(BadAnswerError, match=reason) as caught:
        scored({**GOOD, key: value})
    assert len(str(caught.value)) <= 1000
    str(caught.value).encode()


@pytest.mark.parametrize("answer", [None, [], "result", 3, {}, {"score": 1.0}])
def test_what_is_no_object_is_no_result(answer: object) -> None:
    with pytest.raises(BadAnswerError, match="another form"):
        scored(answer)


def test_violations_are_a_list_of_texts_or_one_themselves() -> None:
    assert violations({"result": []}) == []
    assert violations({"result": ["line 3: no"]}) == ["line 3: no"]
    for forged in ({}, "", None, [1], [[]], 0):
        assert violations({"result": forged}) == ["gave a result of another form"]
    assert violations({"error": "ran out of memory"}) == ["ran out of memory"]


@given(st.text() | st.integers() | st.none())
def test_a_reason_is_one_line_that_can_be_stored(text: object) -> None:
    line = one_line(text)
    assert len(line) <= 10_000
    assert line.isprintable()
    (stored,) = sqlite3.connect(":memory:").execute("SELECT ?", (line,)).fetchone()
    assert stored == line


def test_control_characters_are_shown_and_do_nothing() -> None:
    assert one_line("a\x1b[2Jb\ud800\nc") == "a\\x1b[2Jb\\ud800 c"
    assert json.loads(json.dumps(one_line("x" * 5000))) == "x" * 1000
