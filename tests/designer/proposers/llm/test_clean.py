"""Text of anybody's making, as it may be kept and sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from designer.proposers.llm.clean import UnreadableError, clean, clean_json, clean_name, decode, decode_from


@given(st.text(st.characters(blacklist_categories=()), max_size=40))
def test_what_is_clean_can_be_written_anywhere_and_stays_as_it_is(text: str) -> None:
    found = clean(text)
    assert found.encode().decode() == found
    assert "\x00" not in found
    assert clean(found) == found


def test_ordinary_text_is_left_alone() -> None:
    text = "Größe:\t5\n  日本 \U0001f600"
    assert clean(text) == text


def test_names_may_go_back_to_a_server() -> None:
    assert clean_name("run_\x00experiment\n") == "run_experiment_"
    assert clean_name("\x00\x01") == "unnamed"
    assert len(clean_name("x" * 1000)) == 64


def test_json_is_read_with_clean_strings() -> None:
    assert decode('{"a\\ud800": ["\\u0000b", 1, null]}') == {"a\ufffd": ["b", 1, None]}
    assert decode('{"a": "two\nlines"}') == {"a": "two\nlines"}
    assert decode_from('so {"a": "\\ud83d"} there', 3) == ({"a": "\ufffd"}, 18)
    assert clean_json({"a": ("kept",), "b": 2.5}) == {"a": ("kept",), "b": 2.5}


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "9" * 10_000])
def test_what_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(UnreadableError):
        decode(text)
    with pytest.raises(UnreadableError):
        decode_from(f" {text}", 1)
