"""Shutting down: what runs may finish, what does not is told."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.fake_vllm import FakeVllm, answer, silent, stall_mid_stream, stream
from tests.support.running_plane import chat, get, running_plane, stream_chat


async def test_what_runs_finishes_and_nothing_new_begins() -> None:
    async with FakeVllm(stream(5, gap=0.02)) as worker, running_plane([worker], clean=False) as plane:
        async with plane.client() as client, plane.client() as idle:
            assert (await idle.ask(get("/health"))).status == 200
            await client.send(stream_chat())
            await worker.wait_requests(1)
            draining = asyncio.ensure_future(plane.data_plane.drain(5.0))
            assert await idle.closed()
            got = await client.receive()
            assert (got.text, got.complete) == (" t0 t1 t2 t3 t4", True)
            assert await draining
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", plane.port)
        assert plane.num_inflight == 0


async def test_a_request_on_a_kept_connection_is_its_last() -> None:
    async with (
        FakeVllm(answer(delay=0.03)) as worker,
        running_plane([worker], clean=False) as plane,
        plane.client() as client,
    ):
        await client.send(chat() + chat())
        await worker.wait_requests(1)
        draining = asyncio.ensure_future(plane.data_plane.drain(5.0))
        got = await client.receive()
        assert (got.status, got.headers["connection"]) == (200, "close")
        assert await draining


async def test_a_stuck_stream_does_not_keep_the_process() -> None:
    async with FakeVllm([stall_mid_stream(2), silent()]) as worker, running_plane([worker], clean=False) as plane:
        async with plane.client() as streaming, plane.client() as waiting:
            await streaming.send(stream_chat())
            await worker.wait_requests(1)
            await waiting.send(chat())
            await worker.wait_requests(2)
            await plane.until(lambda: plane.tokens["w0"] == 1)
            assert not await plane.data_plane.drain(0.05)
            broken = await streaming.receive()
            assert (broken.text, broken.complete, broken.events[-1]["error"]["code"]) == (" t0", True, 502)
            assert (await waiting.receive()).status == 503
        assert plane.num_inflight == 0
        assert {finished.ending for finished in plane.metrics.finished} == {"failed"}


async def test_a_port_in_use_is_an_error() -> None:
    async with running_plane([]) as plane:
        with pytest.raises(OSError):
            await plane.data_plane.start("127.0.0.1", plane.port)


async def test_a_worker_is_added_once_and_by_a_url() -> None:
    async with running_plane([]) as plane:
        with pytest.raises(ValueError, match="w7: 'localhost:80'"):
            plane.data_plane.add_worker("w7", "localhost:80")
        plane.data_plane.add_worker("w7", "http://localhost:80/base/")
        with pytest.raises(ValueError, match="w7"):
            plane.data_plane.add_worker("w7", "http://localhost:80")
        assert plane.data_plane.num_worker_connections == {"w7": (0, 0)}
