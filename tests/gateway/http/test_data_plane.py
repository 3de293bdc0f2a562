"""Requests through the gateway and back, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.events import ClientLeft, FirstTokenSeen, RequestArrived, RequestEnded, WorkerHealthChanged
from tests.support.fake_vllm import (
    FakeVllm,
    answer,
    close_before_first_byte,
    error,
    silent,
    stream,
)
from tests.support.running_plane import chat, get, post, running_plane, stream_chat, with_settings


async def test_a_chat_goes_there_and_back() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(chat("x-request-id: my-1", "authorization: Bearer k"))
        assert got.status == 200
        assert got.json["choices"][0]["message"]["content"] == " t0 t1 t2"
        assert (got.headers["x-request-id"], got.headers["x-ranvier-worker"]) == ("my-1", "w0")
        sent = worker.requests[0]
        assert sent.json["messages"][0]["content"] == "hi"
        assert (sent.headers["x-request-id"], sent.headers["authorization"]) == ("my-1", "Bearer k")
        (ended,) = plane.seen(RequestEnded)
        assert (ended.outcome, ended.num_output_tokens, ended.num_prompt_tokens) == ("completed", 3, 16)
        (finished,) = plane.metrics.finished
        assert (finished.status, finished.ending, finished.num_output_tokens) == (200, "completed", 3)
        assert plane.tokens == {"w0": 3}


async def test_a_stream_goes_there_and_back_byte_for_byte() -> None:
    async with FakeVllm(stream(5)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat("x-request-id: r"))
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(stream_chat("x-request-id: r"))
        direct = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        assert got.text == " t0 t1 t2 t3 t4"
        assert got.events[-1] == "[DONE]"
        assert got.complete
        assert (
            b"".join(part.partition(b"\r\n")[2] for part in direct.split(b"\r\n\r\n", 1)[1].split(b"\n\n\r\n")[:1])
            in got.body
        )
        assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert len(plane.seen(FirstTokenSeen)) == 1
        (ended,) = plane.seen(RequestEnded)
        assert ended.num_output_tokens >= 5


async def test_usage_corrects_the_count_of_a_stream() -> None:
    async with FakeVllm(stream(5, usage=True, cached=8)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            await client.ask(stream_chat())
        (ended,) = plane.seen(RequestEnded)
        assert (ended.num_output_tokens, ended.num_prompt_tokens, ended.num_cached_tokens) == (5, 16, 8)
        assert plane.tokens == {"w0": 5}


async def test_connections_are_kept_on_both_sides() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        for i in range(5):
            assert (await client.ask(chat(stream=bool(i % 2)))).status == 200
        assert worker.num_connections == 1
        assert plane.data_plane.num_client_connections == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        await client.send(b"".join(chat(f"x-request-id: p{i}") for i in range(6)) + get("/health"))
        ids = [(await client.receive()).headers["x-request-id"] for _ in range(6)]
        assert ids == [f"p{i}" for i in range(6)]
        assert (await client.receive()).status == 200


async def test_what_cannot_be_read_is_refused_without_a_worker() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(post("/v1/chat/completions", b'{"model":'))
        assert (got.status, got.json["error"]["type"], got.json["error"]["code"]) == (400, "Bad Request", 400)
        assert got.json["error"]["param"].startswith("body")
        assert (await client.ask(chat())).status == 200
        assert len(worker.requests) == 1


async def test_a_failed_worker_costs_the_client_nothing() -> None:
    async with FakeVllm(error(500)) as bad, FakeVllm() as good, running_plane([bad, good]) as plane:
        async with plane.client() as client:
            answers = [await client.ask(chat()) for _ in range(4)]
        assert [a.status for a in answers] == [200] * 4
        assert ("w0", "status_500") in plane.metrics.retried


async def test_a_client_that_leaves_while_waiting_cancels_at_once() -> None:
    async with FakeVllm(silent()) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            await client.send(chat())
            await worker.wait_requests(1)
        await worker.requests[0].wait_disconnected()
        assert len(plane.seen(ClientLeft)) == 1
        assert plane.metrics.finished[0].ending == "cancelled"


async def test_a_connection_that_died_while_idle_costs_no_attempt() -> None:
    async with FakeVllm(answer(drop_idle=True)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            for _ in range(8):
                assert (await client.ask(chat())).status == 200
        assert plane.metrics.retried == []


async def test_a_connection_that_dies_as_it_is_used_again_costs_no_attempt() -> None:
    """The worker's end of it and the next request cross on the way."""
    dies = [answer(), close_before_first_byte(), answer(), close_before_first_byte(reset=True)] * 4
    async with FakeVllm(dies) as worker, running_plane([worker], max_attempts=1) as plane, plane.client() as client:
        for _ in range(7):
            assert (await client.ask(chat())).status == 200
        assert plane.metrics.retried == []
        assert worker.num_connections > 4
        assert {ended.outcome for ended in plane.seen(RequestEnded)} == {"completed"}


async def test_every_attempt_failed() -> None:
    async with (
        FakeVllm(close_before_first_byte()) as worker,
        running_plane([worker]) as plane,
        plane.client() as client,
    ):
        got = await client.ask(chat())
        assert (got.status, got.json["error"]["code"]) == (502, 502)
        assert len(worker.requests) == 3
        assert plane.metrics.finished[0].ending == "failed"


@pytest.mark.parametrize(("asked", "got"), [(-(2**40), 10), (-3, 3), (0, 0), (4, -4), (2**60, -10)])
async def test_a_client_without_a_key_asks_for_a_priority_within_bounds(asked: int, got: int) -> None:
    """In a body lower is first, as in vLLM; a policy sees higher first."""
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        await client.ask(chat(priority=asked))
        assert plane.seen(RequestArrived)[0].priority == got


async def test_the_bounds_of_priorities_are_settings() -> None:
    settings = with_settings(priority_range=(-1, 0))
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        for asked in (-9, 9):
            await client.ask(chat(priority=asked))
        assert [arrived.priority for arrived in plane.seen(RequestArrived)] == [0, -1]


@pytest.mark.parametrize(("header", "size"), [("x-ranvier-tenant", 128), ("x-session-id", 256)])
async def test_a_name_too_long_to_be_remembered_is_refused_and_named(header: str, size: int) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(chat(f"{header}: {'n' * size}"))).status == 200
        got = await client.ask(chat(f"{header.title()}: {'n' * (size + 1)}"))
        assert (got.status, got.json["error"]["param"]) == (400, header)
        assert got.json["error"]["message"] == f"The header {header} is longer than {size} bytes."
        assert len(worker.requests) == 1


async def test_a_session_in_the_body_is_bounded_too() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(chat(session_id="s" * 257))
        assert (got.status, got.json["error"]["param"]) == (400, "session_id")
        assert (await client.ask(chat(user="u" * 257))).status == 200
        assert plane.seen(RequestArrived)[0].session_id is None


async def test_the_preface_of_http_2_is_told_what_is_spoken() -> None:
    async with running_plane() as plane, plane.client() as client:
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        got = await client.receive()
        assert (got.status, got.json["error"]["code"]) == (505, 505)
        assert got.json["error"]["message"] == "HTTP/2 is not spoken here; please use HTTP/1.1."
        assert await client.closed()


async def test_one_tenant_does_not_fill_the_queue() -> None:
    async with FakeVllm() as worker, running_plane([worker], max_queue_requests_per_tenant=2) as plane:
        plane.runtime.submit(WorkerHealthChanged(plane.runtime.clock.time(), "w0", False))
        async with plane.client() as a, plane.client() as b, plane.client() as c, plane.client() as d:
            for client in (a, b):
                await client.send(chat("x-ranvier-tenant: greedy"))
            await plane.until(lambda: plane.dispatcher.pools["pool"].queue.num_requests == 2)
            got = await c.ask(chat("x-ranvier-tenant: greedy"))
            assert (got.status, got.json["error"]["code"], "retry-after" in got.headers) == (429, 429, True)
            await d.send(chat("x-ranvier-tenant: modest"))
            await plane.until(lambda: plane.dispatcher.pools["pool"].queue.num_requests == 3)
            plane.runtime.submit(WorkerHealthChanged(plane.runtime.clock.time(), "w0", True))
            assert [(await client.receive()).status for client in (a, b, d)] == [200] * 3
