from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.mockworker.sse import Answer, http_chunk


def events(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    parts = data.decode().removesuffix("\n\n").split("\n\n")
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


@pytest.fixture
def chat() -> Answer:
    return Answer('r"1', "tiny", 12, chat=True, num_prompt_tokens=16)


@pytest.fixture
def completion() -> Answer:
    return Answer("r1", "tiny", 12, chat=False, num_prompt_tokens=16)


def test_chat_stream_byte_for_byte(chat: Answer) -> None:
    head = b'data: {"id":"chatcmpl-r\\"1","object":"chat.completion.chunk","created":12,"model":"tiny","choices":['
    assert chat.first(usage=False) == head + (
        b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}\n\n'
    )
    token = chat.token(0, usage=False)
    word = events(token)[0]["choices"][0]["delta"]["content"].encode()
    assert token == head + (
        b'{"index":0,"delta":{"content":"' + word + b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
    )
    last = chat.last(1, "length", usage=False, continuous=False, cached=None)
    assert last == head + (
        b'{"index":0,"delta":{"content":"' + word + b'"},"logprobs":null,"finish_reason":"length","stop_reason":null,'
        b'"token_ids":null}],"system_fingerprint":"vllm-0.32.0+mock"}\n\ndata: [DONE]\n\n'
    )


def test_completion_stream_byte_for_byte(completion: Answer) -> None:
    head = (
        b'data: {"id":"cmpl-r1","object":"text_completion","created":12,"model":"tiny","choices":[{"index":0,"text":"'
    )
    assert completion.first(usage=True) == b"", "a completion opens with its first token"
    token = completion.token(3, usage=False)
    word = events(token)[0]["choices"][0]["text"].encode()
    rest = b'"stop_reason":null,"prompt_token_ids":null,"token_ids":null}'
    assert token == head + word + b'","logprobs":null,"finish_reason":null,' + rest + b"]}\n\n"
    last = completion.last(4, "stop", usage=False, continuous=False, cached=None)
    assert last.startswith(head + word + b'","logprobs":null,"finish_reason":"stop",' + rest + b"],")


@pytest.mark.parametrize("name", ["chat", "completion"])
def test_usage_comes_last_and_alone(name: str, request: pytest.FixtureRequest) -> None:
    answer: Answer = request.getfixturevalue(name)
    content, usage, done = events(answer.last(6, "length", usage=True, continuous=False, cached=None))
    assert "usage" not in content and "system_fingerprint" not in content
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 16, "total_tokens": 22, "completion_tokens": 6}
    assert list(usage) == ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"]
    assert done == "[DONE]"


def test_continuous_usage_counts_up(chat: Answer) -> None:
    counted = [events(chat.first(usage=True))[0], *(events(chat.token(i, usage=True))[0] for i in range(2))]
    counted.append(events(chat.last(3, "stop", usage=True, continuous=True, cached=None))[0])
    assert [event["usage"]["completion_tokens"] for event in counted] == [0, 1, 2, 3]
    assert [event["usage"]["total_tokens"] for event in counted] == [16, 17, 18, 19]


def test_cached_tokens_are_told_when_asked_for(chat: Answer) -> None:
    usage = events(chat.last(6, "length", usage=True, continuous=False, cached=8))[1]["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 8}
    details = json.loads(chat.whole(6, "length", cached=8))["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == 8


@pytest.mark.parametrize("name", ["chat", "completion"])
def test_a_whole_answer_says_what_its_stream_says(name: str, request: pytest.FixtureRequest) -> None:
    answer: Answer = request.getfixturevalue(name)
    body = json.loads(answer.whole(5, "stop", cached=None))
    streamed = [events(answer.token(i, usage=False))[0]["choices"][0] for i in range(4)]
    streamed.append(events(answer.last(5, "stop", usage=False, continuous=False, cached=None))[0]["choices"][0])
    texts = [c["delta"]["content"] if name == "chat" else c["text"] for c in streamed]
    choice = body["choices"][0]
    assert (choice["message"]["content"] if name == "chat" else choice["text"]) == "".join(texts)
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == 5
    assert body["usage"]["prompt_tokens_details"] is None


def test_chunk_parts_make_a_tokens_event(chat: Answer, completion: Answer) -> None:
    for answer in (chat, completion):
        before, after = answer.chunk_parts()
        event = answer.token(7, usage=False)
        word = events(event)[0]["choices"][0]
        text = word["text"] if "text" in word else word["delta"]["content"]
        assert before + text.encode() + after == http_chunk(event)
