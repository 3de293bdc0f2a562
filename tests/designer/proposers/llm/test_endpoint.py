"""One request: what comes together, and what kind of failure each misbehaviour is."""

from __future__ import annotations

import pytest

from designer.proposers.llm.endpoint import Answer, Endpoint, EndpointError
from tests.support.fake_vllm import (
    Behaviour,
    FakeVllm,
    answer,
    close_before_first_byte,
    error,
    error_event,
    garbage,
    silent,
    stall_mid_stream,
)
from tests.support.scripted_models import cast_settings, cut_stream, says

TOOLS = [{"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}]
HELLO = [{"role": "user", "content": "hello"}]


async def ask(behaviour: Behaviour, **role: object) -> tuple[Answer, FakeVllm]:
    async with FakeVllm(behaviour) as server:
        endpoint = Endpoint(cast_settings(server.url, researcher=role).researcher)
        try:
            return await endpoint.complete(HELLO, TOOLS, None), server
        finally:
            await endpoint.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_with_calls_comes_together_streamed_or_whole(stream: bool) -> None:
    given, server = await ask(
        says("I look.", [("look", {"at": "it"}), ("look", {"at": "that"})], reasoning="hm"), stream=stream
    )
    assert given.content == "I look."
    assert [call["function"] for call in given.tool_calls] == [
        {"name": "look", "arguments": '{"at": "it"}'},
        {"name": "look", "arguments": '{"at": "that"}'},
    ]
    assert [call["id"] for call in given.tool_calls] == ["id-0", "id-1"]
    assert (given.prompt_tokens, given.completion_tokens, given.finish_reason) == (100, 20, "tool_calls")
    assert given.reasoning == "hm"
    assert "hm" not in str(given.message())
    assert server.requests[0].json["tools"] == TOOLS
    assert server.requests[0].json["max_tokens"] == 500


async def test_a_refusal_is_a_reply() -> None:
    given, _ = await ask(says(refusal="I would rather not."))
    assert given.refusal == given.message()["content"] == "I would rather not."


async def test_the_key_comes_from_its_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    monkeypatch.setenv("MY_KEY", "secret-of-mine")
    _, server = await ask(says("hello"), api_key_env="MY_KEY")
    assert server.requests[0].headers["authorization"] == "Bearer secret-of-mine"
    monkeypatch.setenv("OPENAI_ORG_ID", "general-organization")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "general-project")
    _, server = await ask(says("hello"), api_key_env="NOT_SET")
    assert "general" not in str(server.requests[0].headers)


@pytest.mark.parametrize(
    ("behaviour", "retry", "charged", "fatal", "says_"),
    [
        (error(429, "slow down", headers={"retry-after": "7"}), True, False, False, "slow down"),
        (error(503, "full"), True, True, False, "full"),
        (error(500, "oh"), True, True, False, "oh"),
        (error(400, "too long"), False, False, False, "too long"),
        (error(401, "who are you"), False, False, True, "who are you"),
        (error(404, "no such model"), False, False, True, "no such model"),
        (error_event(503), True, True, False, "scripted failure"),
        (cut_stream(), True, True, False, "peer closed"),
        (cut_stream(politely=True), True, True, False, "cut off"),
        (close_before_first_byte(), True, True, False, "Connection error"),
        (garbage(), True, True, False, "Connection error"),
        (stall_mid_stream(), True, True, False, "no complete reply in 0.3 s"),
        (silent(), True, True, False, ""),
        (answer(b"<html>welcome</html>"), True, True, False, ""),
        (answer({"choices": []}), True, True, False, ""),
    ],
)
async def test_every_failure_says_whether_to_wait_to_charge_or_to_give_up(
    behaviour: Behaviour, retry: bool, charged: bool, fatal: bool, says_: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        await ask(behaviour, request_seconds=0.3)
    failure = caught.value
    assert (failure.retry, failure.charged, failure.fatal) == (retry, charged, fatal)
    assert says_ in str(failure)
    assert "\n" not in str(failure)


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b'{"choices": []}', b'{"choices": null}', b"[1]"])
async def test_a_whole_answer_of_another_form_is_a_failure(body: bytes) -> None:
    with pytest.raises(EndpointError):
        await ask(answer(body), stream=False)


async def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    async def wait(value: str) -> float | None:
        with pytest.raises(EndpointError) as caught:
            await ask(error(429, headers={"retry-after": value}))
        return caught.value.retry_after

    assert await wait("7") == 7.0
    assert await wait("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    assert await wait("soon") is None


async def test_nobody_there_costs_nothing() -> None:
    endpoint = Endpoint(cast_settings("http://127.0.0.1:9").researcher)
    with pytest.raises(EndpointError) as caught:
        await endpoint.complete(HELLO, [], None)
    await endpoint.close()
    assert caught.value.retry
    assert not caught.value.charged
    assert "http://127.0.0.1:9/v1" in str(caught.value)


async def test_an_error_that_repeats_the_key_is_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with pytest.raises(EndpointError) as caught:
        await ask(error(401, "Incorrect API key provided: sk-very-secret"))
    assert "sk-very-secret" not in str(caught.value)
    assert "[key]" in str(caught.value)
