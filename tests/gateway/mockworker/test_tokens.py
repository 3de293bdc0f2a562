from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mockworker import tokens

TEXT = st.binary(max_size=400)


@pytest.mark.parametrize(("prompt", "count"), [(b"", 1), (b"a", 1), (b"abcd", 1), (b"abcde", 2), ("é".encode() * 4, 2)])
def test_a_token_is_four_bytes_rounded_up(prompt: bytes, count: int) -> None:
    assert tokens.num_tokens(prompt) == count


@given(TEXT)
def test_ids_spell_the_prompt(prompt: bytes) -> None:
    ids = tokens.encode(prompt)
    assert tokens.decode(ids) == prompt.rstrip(b"\0")
    assert len(ids) == -(-len(prompt) // 4)
    assert tokens.pack(ids)[: len(prompt)] == prompt


@given(TEXT, TEXT, TEXT)
def test_prompts_share_keys_exactly_as_far_as_they_share_blocks(head: bytes, one: bytes, other: bytes) -> None:
    first, second = (tokens.prefix_chunks(head + tail, block_size=2) for tail in (one, other))
    common = next((i for i, (a, b) in enumerate(zip(head + one, head + other, strict=False)) if a != b), None)
    length = min(len(head + one), len(head + other)) if common is None else common
    shared = sum(1 for a, b in zip(first, second, strict=False) if a == b)
    assert shared == length // 8


@given(TEXT)
def test_chunks_end_at_full_blocks_within_the_prompt(prompt: bytes) -> None:
    chunks = tokens.prefix_chunks(prompt, block_size=3)
    assert [end for _, end in chunks] == list(range(3, len(prompt) // 4 + 1, 3))


def test_a_salt_sets_all_keys_apart() -> None:
    prompt = b"x" * 640
    plain, salted = tokens.prefix_chunks(prompt, 16), tokens.prefix_chunks(prompt, 16, "tenant")
    assert not {key for key, _ in plain} & {key for key, _ in salted}


def test_digests_are_fixed_for_good() -> None:
    """They are compared between processes and runs: a changed digest is a changed experiment."""
    assert tokens.prefix_chunks(b"abcdefgh", 1) == ((2811424059823104496, 1), (13862810298841134487, 2))


def test_lengths_are_log_normal_and_depend_on_seed_and_id_alone() -> None:
    drawn = [tokens.draw_output_tokens(f"r{i}", 1, 190.0, 0.9) for i in range(2000)]
    assert drawn == [tokens.draw_output_tokens(f"r{i}", 1, 190.0, 0.9) for i in range(2000)]
    assert drawn != [tokens.draw_output_tokens(f"r{i}", 2, 190.0, 0.9) for i in range(2000)]
    assert 170 < statistics.median(drawn) < 210
    assert 240 < statistics.mean(drawn) < 330, "190 * exp(0.9**2 / 2) = 285"
    assert min(drawn) >= 1


@given(st.integers(0, 200), st.integers(0, 300))
def test_an_answer_is_its_words_and_four_bytes_a_token(start: int, count: int) -> None:
    whole = tokens.text(start, count)
    assert whole == b"".join(tokens.word(start + i) for i in range(count))
    assert len(whole) == 4 * count


def test_words_need_no_json_escapes() -> None:
    assert tokens.NUM_WORDS == 64
    assert all(part.isalpha() and len(part) == 3 for part in tokens.WORDS.decode().split(" ")[1:])
