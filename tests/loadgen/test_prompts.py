from __future__ import annotations

from itertools import takewhile

import pytest

from loadgen.prompts import Prompts


@pytest.mark.parametrize("num_tokens", [1, 2, 511, 512, 513, 5000])
@pytest.mark.parametrize("hash_ids", [None, (), (3,), (3, 4), tuple(range(20))])
def test_four_bytes_and_about_one_word_a_token(num_tokens, hash_ids):
    text = Prompts().text(num_tokens, hash_ids, "r1")
    assert len(text.encode()) == 4 * num_tokens
    assert len(text.split()) == num_tokens


def test_the_same_on_every_machine():
    text = Prompts("salt").text(8, (7,), "r1")
    assert text == Prompts("salt").text(8, (7,), "another")


def shared(one: str, two: str) -> int:
    """Tokens at the start that are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))) // 4


def test_equal_leading_ids_are_equal_text_and_no_more():
    prompts = Prompts()
    one = prompts.text(2000, (1, 2, 3), "a")
    assert shared(one, prompts.text(2000, (1, 2, 9), "b")) == 1024
    assert shared(one, prompts.text(1200, (1, 2, 3), "b")) == 1200
    assert shared(one, prompts.text(2000, (9, 2, 3), "b")) == 0
    assert shared(one, prompts.text(2000, (1, 2, 3), "b")) == 1536


def test_without_ids_nothing_is_shared():
    prompts = Prompts()
    assert shared(prompts.text(1000, None, "a"), prompts.text(1000, None, "b")) == 0


def test_another_salt_is_other_text():
    assert shared(Prompts("a").text(1000, (1,), "r"), Prompts("b").text(1000, (1,), "r")) == 0


def test_many_blocks_are_all_different():
    prompts = Prompts()
    assert len({prompts.text(512, (hash_id,), "r")[:8] for hash_id in range(3000)}) == 3000
