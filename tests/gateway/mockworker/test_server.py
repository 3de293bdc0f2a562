from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.mockworker.config import MockConfig
from gateway.mockworker.records import RecordLog
from gateway.mockworker.server import MockWorker
from tests.support.mock_profile import flat_profile

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
LENGTH = "x-ranvier-output-tokens"

Start = Callable[..., Awaitable[MockWorker]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts workers whose steps take 10 engine milliseconds, by default 50 times as fast."""
    async with AsyncExitStack() as stack:

        async def make(
            records: RecordLog | None = None, flags: dict[str, Any] | None = None, **config: Any
        ) -> MockWorker:
            settings = {"model": "tiny", "speed": 50.0, **config}
            worker = MockWorker(flat_profile(**(flags or {})), MockConfig(**settings), records)
            await worker.start()
            stack.push_async_callback(worker.close)
            return worker

        yield make


@asynccontextmanager
async def client_of(worker: MockWorker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=worker.url, timeout=10, verify=False) as client:
        yield client


async def post(
    worker: MockWorker, path: str = CHAT, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    content = {"messages": HI, **body} if path == CHAT else body
    async with client_of(worker) as client:
        return await client.post(path, json=content, headers=headers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server under test has no event for it
            await asyncio.sleep(0.001)


def contents(reply: httpx.Response) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in reply.text.split("\n\n") if part]
    assert parts[-1] == "[DONE]"
    return [json.loads(part) for part in parts[:-1]]


# -- the openai SDK ------------------------------------------------------------------------------------------------


async def test_the_openai_sdk_streamed_and_not(start: Start) -> None:
    worker = await start(enable_prompt_tokens_details=True)
    async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="k", max_retries=0) as client:
        (model,) = (await client.models.list()).data
        assert model.id == "tiny"
        whole = await client.chat.completions.create(
            model="tiny", messages=HI, max_tokens=8, extra_headers={LENGTH: "5"}
        )
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None and whole.usage.completion_tokens == 5
        stream = await client.chat.completions.create(
            model="tiny",
            messages=HI,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={LENGTH: "99"},
        )
        chunks = [chunk async for chunk in stream]
        assert next(c.choices[0].delta.role for c in chunks if c.choices) == "assistant"
        assert sum(1 for c in chunks if c.choices and c.choices[0].delta.content) == 8
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8
        text = await client.completions.create(model="tiny", prompt="Once", max_tokens=3)
        assert len(text.choices[0].text) == 12
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no", messages=HI)
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="tiny", input="x")


# -- shape ---------------------------------------------------------------------------------------------------------


async def test_a_token_is_an_event(start: Start) -> None:
    worker = await start()
    reply = await post(worker, stream=True, headers={LENGTH: "40", "x-request-id": "R"})
    events = contents(reply)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["transfer-encoding"] == "chunked"
    assert "x-request-id" not in reply.headers and LENGTH not in reply.headers
    assert len(events) == 41, "the role, then forty tokens"
    assert {event["id"] for event in events} == {"chatcmpl-R"}
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_request_id_headers_are_a_flag(start: Start) -> None:
    worker = await start(enable_request_id_headers=True)
    for stream in (True, False):
        reply = await post(worker, stream=stream, headers={LENGTH: "1", "x-request-id": "R"})
        assert reply.headers["x-request-id"] == "R"


async def test_continuous_usage_counts_every_token(start: Start) -> None:
    worker = await start()
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = contents(await post(worker, stream=True, stream_options=options, headers={LENGTH: "4"}))
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/health", 200, ""),
        ("GET", "/ping", 200, ""),
        ("POST", "/ping", 200, ""),
        ("GET", "/version", 200, '{"version":"0.32.0+mock"}'),
        ("GET", "/load", 200, '{"server_load":0}'),
        ("GET", "/kv_event_sources", 200, "{}"),
        ("GET", CHAT, 405, '{"detail":"Method Not Allowed"}'),
        ("HEAD", "/health", 405, ""),
        ("POST", "/v1/embeddings", 404, '{"detail":"Not Found"}'),
        ("GET", "/nope", 404, '{"detail":"Not Found"}'),
    ],
)
async def test_other_paths(start: Start, method: str, path: str, status: int, body: str) -> None:
    async with client_of(await start()) as client:
        reply = await client.request(method, path)
    assert (reply.status_code, reply.text) == (status, body)


async def test_models_say_what_the_engine_holds(start: Start) -> None:
    async with client_of(await start(flags={"max_model_len": 512})) as client:
        (card,) = (await client.get("/v1/models")).json()["data"]
    assert (card["id"], card["root"], card["max_model_len"], card["owned_by"]) == ("tiny", "flat", 512, "vllm")


async def test_tokenize_and_back(start: Start) -> None:
    async with client_of(await start()) as client:
        made = (await client.post("/tokenize", json={"model": "tiny", "prompt": "four bytes each"})).json()
        assert (made["count"], len(made["tokens"]), made["max_model_len"]) == (4, 4, 16000)
        back = await client.post("/detokenize", json={"tokens": made["tokens"]})
        assert back.json() == {"prompt": "four bytes each"}
        chat = (await client.post("/tokenize", json={"messages": HI})).json()
        assert chat["count"] == 1
        assert (await client.post("/tokenize", json={"model": "x", "prompt": "a"})).status_code == 404


async def test_errors_are_answers_and_disturb_nothing(start: Start) -> None:
    worker = await start()
    async with client_of(worker) as client:
        for content, status in [(b"{", 400), (b'{"messages":[]}', 400), (b'{"model":"x","messages":[]}', 404)]:
            reply = await client.post(CHAT, content=content)
            assert reply.status_code == status
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        reply = await client.post(CHAT, json={"messages": HI}, headers={LENGTH: "-2"})
        assert reply.status_code == 400 and LENGTH in reply.json()["error"]["message"]
    assert (await post(worker, headers={LENGTH: "2"})).status_code == 200


# -- lengths and the prefix cache ----------------------------------------------------------------------------------


async def output(
    worker: MockWorker, request_id: str, headers: dict[str, str] | None = None, **body: Any
) -> tuple[int, str]:
    reply = (await post(worker, headers={"x-request-id": request_id, **(headers or {})}, **body)).json()
    return reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]


async def test_a_length_depends_on_seed_and_id_and_max_tokens_only_cuts_it(start: Start) -> None:
    one, same, other = await start(seed=1), await start(seed=1), await start(seed=2)
    length, finish = await output(one, "r7")
    assert finish == "stop"
    assert await output(same, "r7") == (length, "stop")
    assert await output(same, "r7", max_tokens=length) == (length, "stop")
    assert await output(same, "r7", max_tokens=length - 1) == (length - 1, "length")
    assert await output(other, "r7") != (length, "stop")
    assert await output(one, "r8") != (length, "stop")


async def test_other_ways_to_a_length(start: Start) -> None:
    worker = await start()
    assert await output(worker, "a", {LENGTH: "30"}, max_tokens=20) == (20, "length")
    assert await output(worker, "a", {LENGTH: "3"}, max_tokens=20, min_tokens=9) == (9, "stop")
    assert await output(worker, "a", max_tokens=33, ignore_eos=True) == (33, "length")


async def test_made_up_ids_differ_between_workers_of_a_process(start: Start) -> None:
    ids = [(await post(await start(instance=i), headers={LENGTH: "1"})).json()["id"] for i in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


async def test_shared_prefixes_hit_the_cache(start: Start) -> None:
    worker = await start(enable_prompt_tokens_details=True)
    prefix, headers = "p" * 64 * 10, {LENGTH: "1"}

    async def cached(**body: Any) -> int:
        reply = await post(worker, "/v1/completions", headers, **body)
        return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert await cached(prompt=prefix + "a" * 40) == 0
    assert await cached(prompt=prefix + "b" * 40) == 160
    ids = [int.from_bytes(b"pppp", "little")] * 160
    assert await cached(prompt=[*ids, 1, 2]) == 160, "token ids are the same prompt"
    assert await cached(prompt=prefix + "c" * 40, cache_salt="mine") == 0


async def test_one_id_twice_at_a_time_is_two_requests(start: Start) -> None:
    worker = await start(speed=5.0)
    replies = await asyncio.gather(*(post(worker, headers={LENGTH: "9", "x-request-id": "same"}) for _ in range(3)))
    assert [reply.json()["id"] for reply in replies] == ["chatcmpl-same"] * 3


# -- clients that leave --------------------------------------------------------------------------------------------


async def raw_request(worker: MockWorker, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    body = json.dumps({"messages": HI, "stream": stream}).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\n" % CHAT.encode())
    writer.write(b"%b: 5000\r\ncontent-length: %d\r\n\r\n%b" % (LENGTH.encode(), len(body), body))
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_request(start: Start, tmp_path: Path, stream: bool) -> None:
    with RecordLog(tmp_path / "r") as log:
        worker = await start(log, speed=1.0)
        reader, writer = await raw_request(worker, stream)
        if stream:
            await reader.readuntil(b"content")
        await until(lambda: worker.driver.engine.num_running == 1)
        writer.close()
        await until(lambda: worker.driver.num_flights == 0)
        worker.driver.refresh()
        await until(lambda: worker.driver.engine.num_running == 0)
        async with client_of(worker) as client:
            shown = (await client.get("/metrics")).text
        assert 'finished_reason="abort",model_name="tiny"} 0.0' in shown, "a vLLM does not count it either"
    (record,) = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert (record["request_id"], record["outcome"], record["finished"]) == ("gone", "abort", None)
    assert record["num_output_tokens"] < 5000


async def test_a_client_that_leaves_while_queued_is_forgotten(start: Start) -> None:
    worker = await start(speed=1.0, flags={"max_num_seqs": 1})
    connections = [await raw_request(worker, stream=True) for _ in range(2)]
    await until(lambda: worker.driver.num_flights == 2 and worker.driver.engine.num_waiting == 1)
    connections[1][1].close()
    await until(lambda: worker.driver.num_flights == 1)
    assert worker.driver.engine.num_waiting == 0
    connections[0][1].close()


# -- limits --------------------------------------------------------------------------------------------------------


async def test_a_full_queue_is_503_without_retry_after(start: Start, tmp_path: Path) -> None:
    with RecordLog(tmp_path / "r") as log:
        worker = await start(log, speed=1.0, max_num_queued_reqs=1, flags={"max_num_seqs": 1})
        connections = [await raw_request(worker, stream=True) for _ in range(2)]
        await until(lambda: worker.driver.reported_num_queued == 1)
        reply = await post(worker, stream=True, headers={"x-request-id": "late"})
        assert reply.status_code == 503 and "retry-after" not in reply.headers
        assert reply.json()["error"]["type"] == "Service Unavailable"
        for _, writer in connections:
            writer.close()
        await until(lambda: worker.driver.num_flights == 0)
        assert worker.metrics.num_rejections["max_num_queued_reqs"] == 1
    records = {r["request_id"]: r for r in map(json.loads, (tmp_path / "r").read_text().splitlines())}
    assert (records["late"]["outcome"], records["late"]["status"]) == ("refused", 503)


async def test_in_a_burst_a_full_queue_shows_after_the_head_of_the_stream(start: Start) -> None:
    """No step ends between the arrivals, so the API server does not know yet that the queue is full."""
    worker = await start(speed=1.0, max_num_queued_reqs=3, flags={"max_num_seqs": 1, "step_ms": 60_000.0})
    connections = [await raw_request(worker, stream=True) for _ in range(9)]
    rejections = worker.metrics.num_rejections
    await until(lambda: worker.driver.num_flights + rejections["max_num_queued_reqs"] == 9)
    assert worker.driver.num_flights in {3, 4}, "three queued, and the first if its step had begun"
    replies = []
    for reader, _ in connections[4:]:
        await reader.readuntil(b"200 OK")
        replies.append(await reader.readuntil(b"\r\n0\r\n\r\n"))
    for reply in replies:
        _, _, event = reply.partition(b'data: {"error": ')
        assert b'"code": 503}}' in event and b"data: [DONE]" in event
        assert reply.count(b"data: ") == 2
    for _, writer in connections:
        writer.close()
    await until(lambda: worker.driver.num_flights == 0)


async def test_silence_is_broken_by_comments(start: Start) -> None:
    worker = await start(speed=1.0, sse_keep_alive_interval=0.01, flags={"step_ms": 100.0})
    reply = await post(worker, stream=True, headers={LENGTH: "1"})
    before, _, _ = reply.text.partition("data: ")
    assert before.startswith(": keep-alive\n\n")
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_priority_orders_the_waiting(start: Start) -> None:
    worker = await start(speed=1.0, flags={"max_num_seqs": 1, "scheduling_policy": "priority"})
    order: list[str] = []

    async def one(name: str, priority: int) -> None:
        await post(worker, headers={LENGTH: "2"}, priority=priority)
        order.append(name)

    _, running = await raw_request(worker, stream=True)
    await until(lambda: worker.driver.engine.num_running == 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(one("low", 5))
        await until(lambda: worker.driver.num_queued == 1)
        group.create_task(one("high", -5))
        await until(lambda: worker.driver.num_queued == 2)
        running.close()
    assert order == ["high", "low"]


# -- life ----------------------------------------------------------------------------------------------------------


async def test_draining_finishes_what_runs_and_refuses_the_rest(start: Start) -> None:
    worker = await start(speed=1.0, shutdown_timeout=10.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(post(worker, stream=True, headers={LENGTH: "20"}))
        await until(lambda: worker.driver.num_flights == 1)
        drained = group.create_task(worker.drain())
        await asyncio.sleep(0)
        reply = await post(worker)
        assert reply.status_code == 500
        assert reply.json()["error"]["message"] == "cannot schedule new futures after shutdown"
        async with client_of(worker) as client:
            assert (await client.get("/health")).status_code == 200
        await drained
    assert len(contents(running.result())) == 21


async def test_closing_aborts_what_runs(start: Start) -> None:
    worker = await start(speed=1.0)
    reader, writer = await raw_request(worker, stream=True)
    await reader.readuntil(b"content")
    await worker.drain()
    await worker.close()
    rest = await reader.read(-1)
    assert b"[DONE]" not in rest and not rest.endswith(b"0\r\n\r\n")
    writer.close()
    with pytest.raises(httpx.ConnectError):
        await post(worker)


async def test_records_tell_each_requests_life(start: Start, tmp_path: Path) -> None:
    with RecordLog(tmp_path / "r") as log:
        worker = await start(log, speed=20.0)
        headers = [{LENGTH: str(i + 1), "x-request-id": f"r{i}"} for i in range(20)]
        await asyncio.gather(*(post(worker, headers=h, stream=bool(i % 2)) for i, h in enumerate(headers)))
    records = {r["request_id"]: r for r in map(json.loads, (tmp_path / "r").read_text().splitlines())}
    assert {name: r["num_output_tokens"] for name, r in records.items()} == {f"r{i}": i + 1 for i in range(20)}
    for record in records.values():
        assert record["outcome"] == "stop" and record["worker"] == worker.url
        assert record["scheduled"] <= record["first_token"] <= record["finished"]
        steps = record["num_output_tokens"] - 1
        assert record["finished"] - record["first_token"] == pytest.approx(steps * 0.010 / 20, abs=1e-6)
