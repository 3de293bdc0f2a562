"""Troubles of other gateways, over real sockets, that no other test shows; docs/conformance.md has them all."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path

from tests.support.fake_connection import Exchange
from tests.support.fake_vllm import FakeVllm, answer, error, error_event, silent, stream
from tests.support.running_plane import RunningPlane, chat, running_plane, stream_chat, with_settings

ROOT = Path(__file__).parent.parent.parent


async def ask_all(plane: RunningPlane, requests: list[bytes]) -> Counter[int]:
    """All at once, each on a connection of its own; how many got which status."""

    async def one(data: bytes) -> int:
        async with plane.client() as client:
            got = await client.ask(data, 60)
            assert got.complete
            return got.status

    return Counter(await asyncio.gather(*map(one, requests)))


def test_every_test_that_the_document_names_exists() -> None:
    text = (ROOT / "docs/conformance.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 60
    missing = [(file, name) for file, name in named if name and f"def {name}(" not in (ROOT / file).read_text()]
    assert missing == []
    assert all((ROOT / file).is_file() for file, _ in named)
    rows = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert sorted(int(row) for row in rows) == list(range(1, 38))


async def test_more_than_a_thousand_streams_at_once() -> None:
    script = stream(1, gap=0.2)
    async with FakeVllm(script) as one, FakeVllm(script) as two, running_plane([one, two]) as plane:
        assert await ask_all(plane, [stream_chat()] * 1050) == {200: 1050}


async def test_a_burst_is_spread_at_once() -> None:
    arrived, all_here = [], asyncio.Event()

    async def when_all_are_here(exchange: Exchange) -> None:
        arrived.append(exchange)
        if len(arrived) == 60:
            all_here.set()
        await all_here.wait()
        await answer()(exchange)

    workers = [FakeVllm(when_all_are_here) for _ in range(3)]
    async with workers[0], workers[1], workers[2], running_plane(workers) as plane:
        assert await ask_all(plane, [chat()] * 60) == {200: 60}
        assert [len(worker.requests) for worker in workers] == [20, 20, 20]


async def test_a_slower_worker_gets_less() -> None:
    fast, slow = FakeVllm(answer(delay=0.01)), FakeVllm(answer(delay=0.2))
    async with fast, slow, running_plane([fast, slow]) as plane:

        async def client() -> None:
            async with plane.client() as connection:
                for _ in range(15):
                    assert (await connection.ask(chat(), 60)).status == 200

        await asyncio.gather(*(client() for _ in range(4)))
        assert len(slow.requests) < len(fast.requests)


async def test_a_worker_that_fails_fast_with_a_green_health_check_attracts_nothing() -> None:
    hole, good = FakeVllm(error(500)), FakeVllm(answer(delay=0.005))
    async with hole, good, running_plane([hole, good]) as plane:
        for _ in range(30):
            assert await ask_all(plane, [chat()]) == {200: 1}
        assert len(hole.requests) < 10


async def test_a_worker_that_hangs_with_a_green_health_check_costs_no_client_an_error() -> None:
    settings = with_settings(first_byte_timeout_seconds=0.1, retry_timeouts=True)
    async with FakeVllm(silent()) as stuck, FakeVllm() as good, running_plane([stuck, good], settings) as plane:
        for _ in range(15):
            assert await ask_all(plane, [chat(), stream_chat()]) == {200: 2}
        assert len(stuck.requests) < 10


async def test_clients_own_faults_eject_no_worker() -> None:
    async with FakeVllm([*[error(400)] * 40, answer()]) as worker, running_plane([worker]) as plane:
        assert await ask_all(plane, [chat()] * 40) == {400: 40}
        assert await ask_all(plane, [chat()]) == {200: 1}
        assert plane.metrics.retried == []


async def test_a_session_and_a_query_reach_the_worker() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        data = chat("x-session-id: s-1", "x-other: o").replace(b"completions HTTP", b"completions?api-version=2 HTTP")
        assert (await client.ask(data)).status == 200
        assert worker.requests[0].target == "/v1/chat/completions?api-version=2"
        assert worker.requests[0].headers["x-session-id"] == "s-1"
        assert worker.requests[0].headers["x-other"] == "o"


async def test_a_queue_that_is_full_inside_a_200_is_tried_elsewhere_for_every_client_of_a_burst() -> None:
    async with FakeVllm(error_event(503)) as full, FakeVllm() as free, running_plane([full, free]) as plane:
        assert await ask_all(plane, [stream_chat()] * 20) == {200: 20}
        assert plane.metrics.retried != []
        assert all(finished.ending == "completed" for finished in plane.metrics.finished)
