"""One request: what comes together, and what kind of failure each misbehaviour is."""

from __future__ import annotations

import json

import pytest

from designer.proposers.llm.endpoint import Answer, Endpoint, EndpointError
from tests.support.fake_vllm import (
    Behaviour,
    Exchange,
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
from tests.support.vllm_bytes import LAST_CHUNK, SSE_HEADERS, chunk, head

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


@pytest.mark.parametrize(("structured", "choice"), [("none", None), ("json_object", None), ("json_schema", "required")])
async def test_a_server_that_can_force_the_form_of_a_reply_is_told_that_a_tool_must_be_called(
    structured: str, choice: str | None
) -> None:
    _, server = await ask(says("", [("look", {})]), structured=structured)
    assert server.requests[0].json.get("tool_choice") == choice


async def test_a_refusal_is_a_reply() -> None:
    given, _ = await ask(says(refusal="I would rather not."))
    assert given.refusal == given.message()["content"] == "I would rather not."


async def test_the_key_comes_from_its_variable_alone_and_nothing_else_of_the_environment_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID", "ADMIN_KEY"):
        monkeypatch.setenv(f"OPENAI_{name}", "general")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-mine: general")
    monkeypatch.setenv("MY_KEY", "secret-of-mine")
    _, server = await ask(says("hello"), api_key_env="MY_KEY")
    assert server.requests[0].headers["authorization"] == "Bearer secret-of-mine"
    for variable in ("", "NOT_SET"):
        _, server = await ask(says("hello"), api_key_env=variable)
        assert server.requests[0].headers["authorization"] == "Bearer none"
        assert "general" not in str(server.requests[0].headers)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    async with FakeVllm(says("hello")) as other:
        away = error(status, headers={"location": f"{other.url}/v1/chat/completions?to=sk-very-secret"})
        with pytest.raises(EndpointError, match="it redirects, which is not followed") as caught:
            await ask(away)
        assert other.all_requests == []
    assert caught.value.fatal
    assert "sk-very-secret" not in str(caught.value)


HOSTILE = "a\ud800b\x00c\x1b[31md\x9be\ud83d\ude00\r\nf"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_a_model_writes_is_clean_when_it_comes_in(stream: bool) -> None:
    calls = [(f"lo\x00ok\n{HOSTILE}" + "x" * 99, json.dumps({"at": "\ud800"})) for _ in range(40)]
    given, _ = await ask(says(HOSTILE, calls, refusal=HOSTILE, reasoning=HOSTILE), stream=stream)
    assert given.content == given.refusal == given.reasoning == "a\ufffdbc[31mde\U0001f600\nf"
    assert len(given.tool_calls) == 16
    name = given.tool_calls[0]["function"]["name"]
    assert name.startswith("look_a_bc_31m")
    assert len(name) == 64
    json.dumps([given.message(), given.reasoning], ensure_ascii=False).encode()
    assert len({call["id"] for call in given.tool_calls}) == 16


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_without_end_is_cut_and_a_key_at_the_cut_is_not_half_kept(
    monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    given, _ = await ask(says("x" * 16_380 + "sk-very-secret" + "y" * 300_000), stream=stream)
    assert len(given.content) == 16_384
    assert given.content.endswith("x[key")
    assert given.finish_reason == "length"


async def test_a_body_without_end_is_a_failure() -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        for _ in range(40):
            await exchange.send(chunk(b": " + b"x" * 1_000_000 + b"\n\n"))

    with pytest.raises(EndpointError, match="longer than") as caught:
        await ask(endless)
    assert caught.value.charged


@pytest.mark.parametrize("stream", [True, False])
async def test_bytes_that_are_no_utf8_are_replaced(stream: bool) -> None:
    marked = says("caf#e")

    async def behave(exchange: Exchange) -> None:
        send = exchange.send
        exchange.send = lambda data: send(data.replace(b"#", b"\xe9"))  # type: ignore[method-assign]
        await marked(exchange)

    given, _ = await ask(behave, stream=stream)
    assert given.content == "caf\ufffde"


@pytest.mark.parametrize(
    "delta",
    [
        None,
        {"content": 5},
        {"content": ["x"]},
        {"tool_calls": [{"index": None, "id": 7, "function": {"name": "look", "arguments": {"at": 1}}}]},
        {"tool_calls": [{"function": None}]},
        {"tool_calls": "look"},
    ],
)
async def test_a_chunk_of_another_form_breaks_nothing(delta: object) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(head(200, SSE_HEADERS))
        event = {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
        await exchange.send(chunk(b"data: " + json.dumps(event).encode() + b"\n\n") + LAST_CHUNK)

    try:
        given, _ = await ask(behave)
    except EndpointError as failure:
        assert failure.retry
    else:
        assert isinstance(given.content, str)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"choices": ' + b"9" * 9_000 + b"}", b"\xff\xfe\x00"])
async def test_json_that_cannot_be_read_is_a_failure(body: bytes) -> None:
    for stream in (True, False):
        with pytest.raises(EndpointError):
            await ask(answer(b"data: " + body + b"\n\n" if stream else body), stream=stream)


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
        (close_before_first_byte(), True, True, False, "no HTTP came back (Server disconnected"),
        (garbage(), True, True, False, "no HTTP came back ("),
        (stall_mid_stream(), True, True, False, "no complete reply in 1 s"),
        (silent(), True, True, False, ""),
        (answer(b"<html>welcome</html>"), True, True, False, ""),
        (answer({"choices": []}), True, True, False, ""),
    ],
)
async def test_every_failure_says_whether_to_wait_to_charge_or_to_give_up(
    behaviour: Behaviour, retry: bool, charged: bool, fatal: bool, says_: str
) -> None:
    with pytest.raises(EndpointError) as caught:
        await ask(behaviour, request_seconds=1.0)
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


@pytest.mark.parametrize("before", [0, 250, 260, 265, 270, 275, 280])
async def test_an_error_that_repeats_the_key_is_scrubbed_wherever_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-very-secret")
    with pytest.raises(EndpointError) as caught:
        await ask(error(401, f"{'x' * before} provided: sk-very-secret"))
    assert "sk-" not in str(caught.value)
    assert len(str(caught.value)) <= 500
    assert "[key]" in str(caught.value) or before
