"""The fake must do what it says, or the tests that lean on it prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from tests.support import fake_vllm as fv
from tests.support.fake_vllm import FakeVllm

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def post(worker: FakeVllm, body: object = BODY) -> httpx.Response:
    async with httpx.AsyncClient(base_url=worker.url) as client:
        return await client.post(CHAT, json=body, headers={"x-request-id": "r1"})


async def raw_reply(worker: FakeVllm) -> bytes:
    """Everything a peer that speaks bytes gets, up to the close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
    data = await asyncio.wait_for(reader.read(-1), 5)
    writer.close()
    return data


async def test_the_openai_sdk_reads_its_stream() -> None:
    async with FakeVllm(fv.stream(3, usage=True)) as worker:
        async with openai.AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="k", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            chunks = [part async for part in stream]
        assert [part.choices[0].delta.content for part in chunks if part.choices] == ["", " t0", " t1", " t2"]
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
        assert worker.requests[0].headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("framing", ["chunked", "content-length", "close"])
async def test_framings_carry_the_same_bytes(framing: fv.Framing) -> None:
    async with FakeVllm(fv.stream(2, framing=framing)) as worker:
        reply = await post(worker)
    assert reply.text.count("data: ") == 4
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "chatcmpl-r1" in reply.text


async def test_a_sequence_is_used_up_in_order_and_its_last_repeats() -> None:
    async with FakeVllm(fv.sequence([fv.error(500)] * 2, fv.error(503))) as worker:
        assert [(await post(worker)).status_code for _ in range(4)] == [500, 500, 503, 503]
        async with httpx.AsyncClient(base_url=worker.url) as client:
            assert (await client.get("/health")).status_code == 200
            assert "num_gpu_blocks" in (await client.get("/metrics?x=1")).text
        assert [r.path for r in worker.requests] == [CHAT] * 4
        assert len(worker.all_requests) == 6


@pytest.mark.parametrize(
    "behaviour",
    [
        fv.close_before_first_byte(),
        fv.close_before_first_byte(reset=True),
        fv.close_after_headers(),
        fv.close_mid_stream(after=2, cut=5),
        fv.close_mid_stream(after=2, reset=True),
        fv.close_mid_body(),
        fv.garbage(),
        fv.garbage_in_stream(),
        fv.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort"),
    ],
)
async def test_misbehaviour_reaches_the_client_as_a_transport_error(behaviour: fv.Behaviour) -> None:
    async with FakeVllm(behaviour) as worker:
        with pytest.raises(httpx.TransportError):
            await post(worker)
        await worker.requests[0].wait_done()
        assert worker.requests[0].disconnected_at is None, "it left itself"


@pytest.mark.parametrize("behaviour", [fv.silent(), fv.stall_mid_stream(1), fv.stream(1000, gap=0.01)])
async def test_a_client_that_leaves_is_recorded(behaviour: fv.Behaviour) -> None:
    async with FakeVllm(behaviour) as worker, asyncio.TaskGroup() as group:
        client = group.create_task(post(worker))
        (request,) = await worker.wait_requests(1)
        client.cancel()
        await request.wait_disconnected()
        assert request.disconnected_at is not None and request.disconnected_at >= request.received_at
        await request.wait_done()


async def test_an_error_event_comes_under_200() -> None:
    async with FakeVllm(fv.error_event(503)) as worker:
        reply = await post(worker)
    assert reply.status_code == 200
    assert reply.text.startswith('data: {"error":') and '"code":503' in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_idle_connections_can_be_dropped_and_close_is_announced() -> None:
    script = [fv.auto(), fv.stream(1, close=True), fv.stream(1, drop_idle=True)]
    async with FakeVllm(script) as worker, httpx.AsyncClient(base_url=worker.url) as client:
        for _ in range(2):
            await client.get("/health")
        assert worker.num_connections == 1
        assert worker.drop_idle() == 1
        await worker.wait_connections(0)
        await client.post(CHAT, json=BODY)
        announced = await client.post(CHAT, json=BODY)
        assert announced.headers["connection"] == "close"
        silent = await client.post(CHAT, json=BODY)
        assert "connection" not in silent.headers
    assert [r.connection for r in worker.requests] == [1, 1, 2]


async def test_slow_bytes_and_chunked_request_bodies() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"stream":'
        yield b"true}"

    async with FakeVllm(fv.slow_bytes(fv.stream(1), size=7)) as worker:
        async with httpx.AsyncClient(base_url=worker.url) as client:
            reply = await client.post(CHAT, content=body())
        assert reply.text.endswith("data: [DONE]\n\n")
        assert worker.requests[0].json == {"stream": True}
        assert worker.requests[0].headers["transfer-encoding"] == "chunked"


async def test_a_peer_that_does_not_read_stops_the_flood() -> None:
    async with FakeVllm(fv.flood(64_000_000)) as worker:
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=4096)
        writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        (request,) = await worker.wait_requests(1)
        await reader.read(100)
        before = -1
        while request.sent_bytes != before:
            before = request.sent_bytes
            await asyncio.sleep(0.05)
        assert 0 < request.sent_bytes < 32_000_000
        writer.transport.abort()
        await request.wait_disconnected()


async def test_a_stopped_fake_refuses_and_listens_again_on_its_port() -> None:
    async with FakeVllm(fv.choose(lambda r: fv.auto() if r.json.get("stream") else fv.error(400))) as worker:
        assert (await post(worker)).status_code == 200
        port = worker.port
        await worker.stop()
        with pytest.raises(httpx.ConnectError):
            await post(worker)
        await worker.listen()
        assert worker.port == port
        assert (await post(worker, {})).status_code == 400


async def test_raw_bytes_go_out_as_they_are() -> None:
    async with FakeVllm(fv.raw(b"HTTP/1.1 2", 0.001, b"00 OK\r\n\r\nrest")) as worker:
        assert await raw_reply(worker) == b"HTTP/1.1 200 OK\r\n\r\nrest"
