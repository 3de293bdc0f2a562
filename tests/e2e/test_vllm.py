"""Two real vLLM servers behind the gateway: ``make e2e-vllm``. Those that end a server come last."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.processes import RunningGateway, running_gateway
from tests.support.vllm_servers import VllmServer, eventually, kill_engines

MINUTES = aiohttp.ClientTimeout(total=240)
CHAT = [{"role": "user", "content": "Tell the nodes of Ranvier about the axon."}]
SAME = {"temperature": 0, "seed": 7}
ENDPOINTS: list[tuple[str, str, dict[str, Any] | str | None]] = [
    ("POST", "/v1/chat/completions", {"messages": CHAT, "max_tokens": 5, **SAME}),
    ("POST", "/v1/chat/completions", {"messages": CHAT, "max_tokens": 5, "logprobs": True, **SAME}),
    ("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 5, **SAME}),
    ("POST", "/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 5, "n": 2, **SAME}),
    ("POST", "/v1/responses", {"input": "Once upon a time", "max_output_tokens": 5, **SAME}),
    ("POST", "/v1/messages", {"messages": CHAT, "max_tokens": 5}),
    ("POST", "/v1/messages/count_tokens", {"messages": CHAT}),
    ("POST", "/v1/chat/completions/batch", {"messages": [CHAT, CHAT], "max_tokens": 3, **SAME}),
    ("POST", "/invocations", {"messages": CHAT, "max_tokens": 5, **SAME}),
    ("POST", "/generative_scoring", {"query": "a", "items": ["b"]}),
    ("POST", "/tokenize", {"prompt": "Once upon a time"}),
    ("POST", "/detokenize", {"tokens": [1, 2, 3]}),
    ("POST", "/v1/embeddings", {"input": "x"}),
    ("POST", "/score", {"text_1": "a", "text_2": "b"}),
    ("POST", "/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("GET", "/v1/responses/resp_none", None),
    ("GET", "/version", None),
    ("GET", "/ping", None),
    ("GET", "/load", None),
    ("GET", "/kv_event_sources", None),
    ("GET", "/v1/chat/completions", None),
    ("GET", "/no/such/path", None),
    ("POST", "/v1/chat/completions", {"messages": CHAT, "max_tokens": -1}),
    ("POST", "/v1/chat/completions", {"messages": 7}),
    ("POST", "/v1/chat/completions", {"model": "no-such-model", "messages": CHAT}),
    ("POST", "/v1/completions", "{no json"),
]


@pytest.fixture(scope="module")
def gateway(vllm: list[VllmServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, "--worker", ",".join(server.url for server in vllm)) as running:
        assert eventually(lambda: running.output().count("worker joined") == len(vllm))
        yield running


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=MINUTES, connector=aiohttp.TCPConnector(limit=0))


async def model_of(base: str) -> str:
    async with session() as client, client.get(f"{base}/v1/models") as answer:
        return str((await answer.json())["data"][0]["id"])


def shape(value: Any) -> Any:
    """Keys and types, without what differs from one request to the next."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


async def ask(base: str, method: str, path: str, body: dict[str, Any] | str | None) -> tuple[int, str, bytes]:
    data = json.dumps(body) if isinstance(body, dict) else body
    headers = {"content-type": "application/json"} if data else {}
    async with session() as client, client.request(method, base + path, data=data, headers=headers) as answer:
        return answer.status, answer.headers.get("content-type", ""), await answer.read()


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS, ids=lambda value: str(value)[:40])
async def test_an_endpoint_answers_as_the_worker_itself(
    vllm: list[VllmServer], gateway: RunningGateway, method: str, path: str, body: dict[str, Any] | str | None
) -> None:
    if isinstance(body, dict):
        body = {"model": await model_of(gateway.url), **body}
    direct, through = await ask(vllm[0].url, method, path, body), await ask(gateway.url, method, path, body)
    assert through[:2] == direct[:2], (direct, through)
    if "json" in direct[1] and direct[0] == 200:
        ours, theirs = json.loads(through[2]), json.loads(direct[2])
        assert shape(ours) == shape(theirs)
        if "choices" in theirs:
            assert [choice.get("text") or choice.get("message") for choice in ours["choices"]] == [
                choice.get("text") or choice.get("message") for choice in theirs["choices"]
            ]
    elif direct[0] != 200:
        assert "error" in json.loads(through[2]) or "detail" in json.loads(through[2])


async def test_health_models_and_metrics(vllm: list[VllmServer], gateway: RunningGateway) -> None:
    assert (await ask(gateway.url, "GET", "/health", None))[0] == 200
    models = json.loads((await ask(gateway.url, "GET", "/v1/models", None))[2])
    assert [entry["id"] for entry in models["data"]] == [await model_of(vllm[0].url)]
    assert b"vllm:num_requests_running" in (await ask(gateway.url, "GET", "/metrics", None))[2]
    assert b"ranvier_worker_ready" in (await ask(gateway.admin_url, "GET", "/metrics", None))[2]


async def stream(base: str, max_tokens: int, path: str = "/v1/completions", **more: Any) -> list[Any]:
    """The events of a completion, the last one ``[DONE]`` if it came."""
    return [event async for event in streamed(base, max_tokens, path, **more)]


async def streamed(base: str, max_tokens: int, path: str = "/v1/completions", **more: Any) -> Any:
    prompt = {"messages": CHAT} if "chat" in path else {"prompt": "Once upon a time"}
    body = {"model": await model_of(base), "max_tokens": max_tokens, "ignore_eos": True, "stream": True, **prompt}
    async with session() as client, client.post(f"{base}{path}", json={**body, **more}) as answer:
        assert answer.status == 200, await answer.text()
        yield answer.headers.get("x-ranvier-worker", "")
        async for line in answer.content:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)


def text_of(events: list[Any]) -> str:
    choices = [e["choices"][0] for e in events if isinstance(e, dict) and e.get("choices")]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_stream_is_the_workers_own(vllm: list[VllmServer], gateway: RunningGateway, path: str) -> None:
    more = {**SAME, "stream_options": {"include_usage": True}}
    direct = await stream(vllm[0].url, 40, path, **more)
    through = await stream(gateway.url, 40, path, **more)
    assert (text_of(through), through[-1]) == (text_of(direct), "[DONE]")
    assert through[-2]["usage"] == direct[-2]["usage"]
    assert through[-2]["usage"]["completion_tokens"] == 40


def running(servers: list[VllmServer]) -> float:
    return sum(server.metric("vllm:num_requests_running") for server in servers)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_ends_its_requests(
    vllm: list[VllmServer], gateway: RunningGateway, streams: bool
) -> None:
    body = {"model": await model_of(gateway.url), "max_tokens": 2000, "ignore_eos": True, "prompt": "x"}
    async with session() as client:

        async def one() -> None:
            async with client.post(f"{gateway.url}/v1/completions", json={**body, "stream": streams}) as answer:
                await answer.read()

        tasks = [asyncio.ensure_future(one()) for _ in range(4)]
        assert await asyncio.to_thread(eventually, lambda: running(vllm) == 4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await asyncio.to_thread(eventually, lambda: running(vllm) == 0)


async def test_a_queue_that_is_full_inside_a_200_is_tried_elsewhere(
    vllm: list[VllmServer], gateway: RunningGateway
) -> None:
    if vllm[0].process is None:
        pytest.skip("needs servers with a queue limit of its own: give RANVIER_VLLM_SERVE")
    answers = await asyncio.gather(*(stream(gateway.url, 100) for _ in range(60)))
    assert [events[-1] for events in answers] == ["[DONE]"] * 60
    assert not [event for events in answers for event in events if isinstance(event, dict) and "error" in event]
    page = (await ask(gateway.admin_url, "GET", "/metrics", None))[2].decode()
    turned_away = [line for line in page.splitlines() if line.startswith("ranvier_retries_total") and "503" in line]
    assert sum(float(line.split()[-1]) for line in turned_away) > 0, "no server was full: nothing was shown"
    print("\n" + "\n".join(turned_away))


async def test_policies_are_swapped_under_load(vllm: list[VllmServer], gateway: RunningGateway) -> None:
    load = asyncio.gather(*(stream(gateway.url, 60, stream_options={"include_usage": True}) for _ in range(40)))
    for specs in ("round_robin", "head_room", "prefix_affinity", "least_loaded"):
        url = f"{gateway.admin_url}/admin/policies/default/load"
        async with session() as client, client.post(url, json={"specs": specs}) as answer:
            assert answer.status == 200
    for events in await load:
        assert events[-1] == "[DONE]"
        assert events[-2]["usage"]["completion_tokens"] == 60


async def test_sigterm_lets_the_gateways_streams_end(
    vllm: list[VllmServer], tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = ("--worker", vllm[0].url)
    with running_gateway(tmp_path_factory.mktemp("drained"), *arguments) as drained:
        events = streamed(drained.url, 300)
        await anext(events)
        drained.process.send_signal(signal.SIGTERM)
        rest = [event async for event in events]
        assert rest[-1] == "[DONE]"
        assert await asyncio.to_thread(drained.process.wait, 30) == 0


async def test_sigterm_lets_a_workers_streams_end_and_others_take_over(
    vllm: list[VllmServer], gateway: RunningGateway
) -> None:
    if vllm[0].process is None:
        pytest.skip("needs servers of its own to end: give RANVIER_VLLM_SERVE")
    streams = [streamed(gateway.url, 1500) for _ in range(2)]
    workers = [await anext(events) for events in streams]
    assert sorted(workers) == sorted(server.worker_id for server in vllm)
    os.kill(vllm[0].process.pid, signal.SIGTERM)
    statuses = [(await ask(gateway.url, "POST", "/v1/completions", await small(gateway)))[0] for _ in range(20)]
    assert statuses == [200] * 20
    for events in streams:
        rest = [event async for event in events]
        assert rest[-1] == "[DONE]"
        assert not [event for event in rest if isinstance(event, dict) and "error" in event]


async def small(gateway: RunningGateway) -> dict[str, Any]:
    return {"model": await model_of(gateway.url), "prompt": "x", "max_tokens": 2}


async def test_an_engine_killed_in_mid_stream_is_an_error_event(
    vllm: list[VllmServer], gateway: RunningGateway
) -> None:
    last = vllm[-1]
    if last.process is None:
        pytest.skip("needs servers of its own to end: give RANVIER_VLLM_SERVE")
    events = streamed(gateway.url, 1900)
    assert await anext(events) == last.worker_id
    got = [await anext(events) for _ in range(5)]
    kill_engines(last)
    got += [event async for event in events]
    assert [event for event in got if isinstance(event, dict) and "error" in event], got[-3:]
    status, _, body = await ask(gateway.url, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})
    assert status in (500, 502, 503)
    assert "error" in json.loads(body)
