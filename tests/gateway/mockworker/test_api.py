from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mockworker import api
from gateway.mockworker.api import ApiError, Generation

HI = [{"role": "user", "content": "hi"}]


def parse(body: Any, chat: bool = True, max_model_len: int = 2048) -> Generation:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.parse_generation(raw, chat=chat, served_model="tiny", max_model_len=max_model_len)


def refusal(body: Any, chat: bool = True) -> dict[str, Any]:
    with pytest.raises(ApiError) as refused:
        parse(body, chat)
    answer: dict[str, Any] = json.loads(refused.value.body())["error"]
    assert answer["code"] == refused.value.status
    return answer


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, **fields}


# Words, types and parameters as a vLLM 0.32 answers them.
REFUSALS = [
    (chat(model="nope"), 404, "NotFoundError", "model", "The model `nope` does not exist. Valid aliases: tiny."),
    (b'{"model":"tiny", bad', 400, "Bad Request", "body.17", "Expecting property name enclosed in double quotes"),
    (b"", 400, "Bad Request", "body", "{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}"),
    (b"[1]", 400, "Bad Request", "body", "Input should be a valid dictionary or object to extract fields from"),
    ({"model": "tiny"}, 400, "Bad Request", "body.messages", "'msg': 'Field required', 'input': '<dict of 1 items>'"),
    (chat(messages="hi"), 400, "Bad Request", "body.messages", "'msg': 'Input should be a valid list', 'input': 'hi'"),
    (chat(messages=[]), 400, "BadRequestError", None, "Cannot apply chat template to an empty conversation."),
    (chat(messages=["hi"]), 400, "Bad Request", "body.messages.0", "Input should be a valid dictionary"),
    (chat(max_tokens=999999), 400, "BadRequestError", "max_tokens", "cannot be greater than max_model_len=2048."),
    (chat(max_tokens=0), 400, "BadRequestError", "max_tokens", "must be at least 1, got 0. (parameter=max_tokens,"),
    (chat(max_tokens=-1), 400, "BadRequestError", "max_tokens", "max_tokens must be at least 1, got -1."),
    (chat(max_tokens="9"), 400, "Bad Request", "body.max_tokens", "Input should be a valid integer"),
    (chat(temperature=-1), 400, "BadRequestError", "temperature", "must be non-negative, got -1.0. (parameter="),
    (chat(n=0), 400, "BadRequestError", None, "n must be at least 1, got 0."),
    (chat(n=2), 400, "BadRequestError", None, "n must be 1 on a mock worker, got 2."),
    (chat(top_logprobs=99), 400, "BadRequestError", "logprobs", "which is greater than max allowed: 20"),
    (chat(stream_options={}), 400, "BadRequestError", "stream_options", "only be defined when `stream=True`."),
    (chat(tools=[{}]), 400, "BadRequestError", None, '"auto" tool choice requires --enable-auto-tool-choice'),
    (
        chat(messages=[{"content": "x" * 9000}]),
        400,
        "BadRequestError",
        "input_tokens",
        "at least 2049 input tokens, wh",
    ),
    (
        chat(messages=[{"content": "x" * 8000}], max_tokens=100),
        400,
        "BadRequestError",
        "input_tokens",
        "you requested 100 output tokens and your prompt contains at least 1949 input tokens, for a total of at least",
    ),
]


@pytest.mark.parametrize(("body", "status", "kind", "param", "words"), REFUSALS)
def test_refusals_are_vllms(body: Any, status: int, kind: str, param: str | None, words: str) -> None:
    answer = refusal(body)
    assert (answer["code"], answer["type"], answer["param"]) == (status, kind, param)
    assert words in answer["message"]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "must be provided and non-empty"),
        ("", "must be provided and non-empty"),
        (["a", "b"], "takes one prompt a request, got 2"),
        ([1, -1], "a token id is an integer from 0 to"),
        ([1, "a"], "a token id is an integer from 0 to"),
    ],
)
def test_refused_completion_prompts(prompt: Any, words: str) -> None:
    assert words in refusal({"prompt": prompt}, chat=False)["message"]


def test_what_is_accepted() -> None:
    body = chat(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7,
        max_completion_tokens=5,
        priority=-3,
        min_tokens=2,
        ignore_eos=True,
        cache_salt="s",
        unknown_field=1,
    )
    generation = parse(body)
    assert generation == Generation(
        chat=True,
        prompt=b"hi",
        num_prompt_tokens=1,
        max_tokens=5,
        min_tokens=2,
        ignore_eos=True,
        priority=-3,
        cache_salt="s",
        stream=True,
        include_usage=True,
        continuous_usage=False,
    )


def test_the_model_may_be_left_out() -> None:
    assert parse({"messages": HI}).chat


def test_a_chat_without_a_bound_has_the_rest_of_the_context_a_completion_sixteen() -> None:
    assert parse({"messages": HI}).max_tokens == 2047
    assert parse({"prompt": "hi"}, chat=False).max_tokens == 16
    assert parse({"prompt": "hi", "max_tokens": None}, chat=False).max_tokens == 2047


@pytest.mark.parametrize("prompt", ["abcdefgh", ["abcdefgh"], [0x64636261, 0x68676665], [[0x64636261, 0x68676665]]])
def test_text_and_token_ids_are_one_prompt(prompt: Any) -> None:
    generation = parse({"prompt": prompt}, chat=False)
    assert (generation.prompt, generation.num_prompt_tokens) == (b"abcdefgh", 2)


def test_a_chat_prompt_is_the_text_of_its_messages() -> None:
    parts = [{"type": "text", "text": "cd"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "ef"}]
    messages = [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": parts},
        {"role": "user", "content": None},
    ]
    assert parse({"messages": messages}).prompt == b"abcdef"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "text", "role"]), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "max_tokens", "stream", "stream_options", "n", "temperature", "priority", "tools"]
)


@given(st.dictionaries(FIELDS, JSON), st.booleans())
def test_any_json_is_served_or_refused(body: dict[str, Any], is_chat: bool) -> None:
    try:
        generation = parse(body, is_chat)
    except ApiError as error:
        assert error.status in {400, 404}
        return
    assert generation.num_prompt_tokens + generation.max_tokens <= 2048


@given(st.binary(max_size=30))
def test_any_bytes_are_served_or_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.status == 400
