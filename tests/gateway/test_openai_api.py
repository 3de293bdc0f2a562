"""What is read of a body, field by field, and the chain of prefix keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.openai_api import (
    ADMINISTRATIVE_PATHS,
    CHUNK_BYTES,
    MAX_PREFIX_CHUNKS,
    MEDIA_BYTES,
    MODEL_PATHS,
    ApiRequest,
    BadRequestError,
    canonical_path,
    prefix_keys,
    read_body,
    read_form,
)


def read(**fields: Any) -> ApiRequest:
    return read_body(json.dumps(fields).encode())


def chat(text: str, **fields: Any) -> ApiRequest:
    return read(model="m", messages=[{"role": "user", "content": text}], **fields)


def test_a_chat_is_read_in_full() -> None:
    got = chat("hello", stream=True, max_tokens=7, priority=-3, cache_salt="s", session_id="abc", user="u")
    assert (got.model, got.stream, got.max_tokens, got.priority) == ("m", True, 7, 3)
    assert (got.session_id, got.cache_salt) == ("abc", "s")
    assert got.texts == ["user", "hello"]
    assert (got.num_prompt_bytes, got.num_prompt_tokens) == (9, None)


@pytest.mark.parametrize("sent", [2**64 - 1, 2**63, -(2**63)])
def test_a_priority_fits_a_log_of_64_bit_integers(sent: int) -> None:
    got = chat("hello", priority=sent).priority
    assert abs(got) == 2**63 - 1 and (got < 0) == (sent > 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_tokens": 9}, 9),
        ({"max_output_tokens": 4}, 4),
        ({"sampling_params": {"max_tokens": 3}}, 3),
        ({"max_tokens": "9"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": -1}, None),
        ({}, None),
    ],
)
def test_max_tokens(fields: dict[str, Any], expected: int | None) -> None:
    assert read(**fields).max_tokens == expected


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"prompt": "once"}, ["once"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"input": "embed me"}, ["embed me"]),
        ({"instructions": "be brief", "input": [{"role": "user", "content": "hi"}]}, ["be brief", "user", "hi"]),
        (
            {"system": [{"type": "text", "text": "sys"}], "messages": [{"role": "user", "content": "hi"}]},
            ["sys", "user", "hi"],
        ),
        ({"query": "q", "documents": ["d1", {"text": "d2"}]}, ["q", "d1", "d2"]),
        ({"text_1": "a", "text_2": ["b"]}, ["a", "b"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, "y"]}, 7]}, ["user", "x", "y"]),
        ({"tools": [{"f": 1}], "messages": [{"role": "user", "content": "x"}]}, ['{"f":1}', "user", "x"]),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]}, ["assistant", '{"id":1}']),
    ],
)
def test_prompt_text_is_found_wherever_it_stands(fields: dict[str, Any], texts: list[str]) -> None:
    got = read(**fields)
    assert got.texts == texts
    assert got.num_prompt_bytes == sum(map(len, texts))


def test_images_count_a_constant_and_other_scripts_their_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    got = read(messages=[{"role": "user", "content": [image, {"type": "text", "text": "Ärger"}]}])
    assert got.num_prompt_bytes == len("user") + MEDIA_BYTES + 6


def test_token_id_prompts_are_counted_exactly() -> None:
    assert read(prompt=[1, 2, 3]).num_prompt_tokens == 3
    batch = read(prompt=[[1, 2], [3, 4, 5]])
    assert (batch.num_prompt_tokens, batch.token_ids) == (5, [1, 2])
    assert read(token_ids=[9] * 10, sampling_params={}).num_prompt_tokens == 10


@pytest.mark.parametrize("value", [None, 7, [], {}, [[]], [None], {"a": [1]}, [True], "", [["x"]]])
@pytest.mark.parametrize(
    "name", ["model", "messages", "prompt", "max_tokens", "priority", "user", "stream", "input", "tools"]
)
def test_fields_of_a_wrong_type_are_left_to_the_worker(name: str, value: Any) -> None:
    got = read(**{name: value})
    assert got.model == ""
    prefix_keys(got)


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"", "body"), (b"[]", "body"), (b"nope", "body.0"), (b'{"a":1', "body.6"), (b"\xff", "body.0"), (b"1", "body")],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        read_body(body)
    assert caught.value.param == param


NAMES = ["messages", "content", "role", "prompt", "input", "type", "text", "tools", "token_ids", "sampling_params"]
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)


@given(ANY_JSON)
@settings(max_examples=150, deadline=None)
def test_no_json_whatever_breaks_the_reader(value: Any) -> None:
    body = json.dumps(value).encode()
    try:
        got = read_body(body)
    except BadRequestError:
        return
    assert got.num_prompt_bytes >= 0
    prefix_keys(got)


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"content":', "}"), ('{"x":', "}")])
@pytest.mark.parametrize("name", ["messages", "prompt", "tools"])
def test_deep_nesting_is_read_no_deeper_than_prompts_go(name: str, opening: str, closing: str) -> None:
    depth = 900
    body = f'{{"{name}":[{opening * depth}1{closing * depth}]}}'
    assert read_body(body.encode()).num_prompt_bytes >= 0


def test_a_form_names_its_model() -> None:
    part = b'--x\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    got = read_form(part % (b"model", b"whisper") + part % (b"stream", b"true") + b"--x--\r\n")
    assert (got.model, got.stream) == ("whisper", True)
    assert read_form(b"no form").model == ""
    assert read_form(b'name="model"').model == ""


def test_prefix_keys_chain_over_whole_chunks() -> None:
    shared = "x" * (3 * CHUNK_BYTES)
    one, two = prefix_keys(chat(shared + "a" * 2000)), prefix_keys(chat(shared + "b" * 2000))
    assert [tokens for _, tokens in one] == [256, 512, 768, 1024]
    assert one[:3] == two[:3]
    assert one[3] != two[3]
    assert len({key for key, _ in one}) == 4
    assert all(0 <= key < 2**64 for key, _ in one)


def test_prefix_keys_are_the_same_in_every_process() -> None:
    assert prefix_keys(chat("y" * 1100)) == ((EXPECTED_KEY, 256),)


EXPECTED_KEY = 9350945331510601715


def test_model_and_salt_enter_the_first_key() -> None:
    text = "x" * 2 * CHUNK_BYTES
    keys = [prefix_keys(r) for r in (chat(text), chat(text, cache_salt="s"), read(model="lora", prompt=text))]
    assert len({k[0] for k in keys}) == 3
    assert len({k[1] for k in keys}) == 3


def test_a_turn_later_the_earlier_prompt_is_a_prefix() -> None:
    first = [{"role": "user", "content": "q" * 5000}]
    later = [*first, {"role": "assistant", "content": "a" * 900}, {"role": "user", "content": "q2" * 700}]
    one, two = prefix_keys(read(messages=first)), prefix_keys(read(messages=later))
    assert len(one) == 4
    assert two[:4] == one
    assert len(two) > 4


def test_prefix_keys_are_bounded_and_absent_for_short_prompts() -> None:
    assert prefix_keys(chat("x" * 1000)) == ()
    long = prefix_keys(chat("x" * 1_000_000))
    assert len(long) == MAX_PREFIX_CHUNKS
    assert long[-1][1] == MAX_PREFIX_CHUNKS * 256


def test_token_id_chunks_hold_256_exactly() -> None:
    keys = prefix_keys(read(prompt=list(range(600))))
    assert [tokens for _, tokens in keys] == [256, 512]
    assert prefix_keys(read(prompt=[-1] * 600)) == ()


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/sleep", "/sleep"),
        (b"/sleep/", "/sleep"),
        (b"//sleep", "/sleep"),
        (b"/%73leep", "/sleep"),
        (b"/v1/../sleep", "/sleep"),
        (b"/./sleep", "/sleep"),
        (b"/v1/models", "/v1/models"),
        (b"/", "/"),
        (b"*", "/*"),
    ],
)
def test_paths_are_read_as_a_worker_might(path: bytes, canonical: str) -> None:
    assert canonical_path(path) == canonical


def test_no_path_is_both_for_models_and_administrative() -> None:
    assert not set(MODEL_PATHS.values()) & ADMINISTRATIVE_PATHS
