"""Connections to a worker: used again the last first, and not kept for longer than a worker keeps them."""

from __future__ import annotations

import asyncio

from gateway.core.events import WorkerJoined
from tests.support.fake_vllm import FakeVllm, answer
from tests.support.running_plane import chat, running_plane, with_settings


async def test_the_last_used_is_used_first() -> None:
    async with FakeVllm(answer(delay=0.03)) as worker, running_plane([worker]) as plane:
        async with plane.client() as one, plane.client() as two:
            await asyncio.gather(one.ask(chat()), two.ask(chat()))
            assert plane.data_plane.num_worker_connections["w0"] == (2, 2)
            for _ in range(3):
                await one.ask(chat())
        assert len({request.connection for request in worker.requests[2:]}) == 1


async def test_idle_connections_are_closed_in_time() -> None:
    async with (
        FakeVllm() as worker,
        running_plane([worker], with_settings(worker_idle_seconds=0.02)) as plane,
        plane.client() as client,
    ):
        await client.ask(chat())
        await worker.wait_connections(0)
        assert (await client.ask(chat())).status == 200


async def test_no_more_are_kept_idle_than_allowed() -> None:
    settings = with_settings(max_idle_connections_per_worker=1)
    async with FakeVllm(answer(delay=0.02)) as worker, running_plane([worker], settings) as plane:
        async with plane.client() as one, plane.client() as two:
            await asyncio.gather(one.ask(chat()), two.ask(chat()))
        await plane.until(lambda: plane.data_plane.num_worker_connections["w0"] == (1, 1))


async def test_an_idle_connection_that_the_worker_closes_is_forgotten() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        await client.ask(chat())
        assert worker.drop_idle() == 1
        await plane.until(lambda: plane.data_plane.num_worker_connections["w0"] == (0, 0))
        assert (await client.ask(chat())).status == 200


async def test_a_worker_that_speaks_out_of_turn_is_hung_up_on() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        await client.ask(chat())
        (connection,) = worker._connections
        connection.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await plane.until(lambda: plane.data_plane.num_worker_connections["w0"] == (0, 0))
        assert (await client.ask(chat())).json["choices"]


async def test_a_base_path_of_a_worker_is_kept() -> None:
    async with FakeVllm() as worker, running_plane([]) as plane:
        plane.data_plane.add_worker("w0", worker.url + "/engine/7/")

        plane.runtime.submit(WorkerJoined(plane.runtime.clock.time(), "w0", "pool"))
        async with plane.client() as client:
            assert (await client.ask(chat())).status == 200
        assert worker.requests[0].target == "/engine/7/v1/chat/completions"
