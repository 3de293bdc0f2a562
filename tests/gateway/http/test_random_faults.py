"""Workers that misbehave in every way and clients that leave at random: every request ends exactly once, and nothing is
left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.core.events import RequestArrived
from tests.support.fake_vllm import (
    Behaviour,
    FakeVllm,
    answer,
    auto,
    choose,
    close_after_headers,
    close_before_first_byte,
    close_mid_body,
    close_mid_stream,
    error,
    error_event,
    garbage,
    garbage_in_stream,
    silent,
    slow_bytes,
    stall_mid_stream,
    stream,
)
from tests.support.running_plane import Answer, RunningPlane, chat, running_plane, with_settings

SETTINGS = with_settings(first_byte_timeout_seconds=0.1, inter_token_timeout_seconds=0.1, worker_idle_seconds=0.05)
BEHAVIOURS: list[Behaviour] = [
    *[auto(3), auto(5, gap=0.002), auto(2, delay=0.01)] * 3,
    *[error(500), error(503), error(429), error(400), error_event(503), error_event(500, after=2)],
    *[close_before_first_byte(), close_before_first_byte(reset=True), close_after_headers(), close_mid_body()],
    *[close_mid_stream(2), close_mid_stream(2, cut=9), silent(), stall_mid_stream(2), garbage(), garbage_in_stream(2)],
    *[stream(3, framing="close"), stream(3, drop_idle=True), answer(drop_idle=True), answer(close=True)],
    *[answer(framing="chunked"), answer(framing="close"), slow_bytes(stream(2), size=5)],
]


def has_an_end(got: Answer) -> bool:
    """It is whole, or it says that it is not."""
    if not got.complete or got.status != 200 or "event-stream" not in got.headers["content-type"]:
        return True
    return got.events[-1] == "[DONE]" or "error" in got.events[-1]


async def one_client(plane: RunningPlane, rng: random.Random) -> None:
    await asyncio.sleep(rng.random())
    async with plane.client() as client:
        for _ in range(rng.choice([1, 2, 3])):
            version = rng.choice(["1.1", "1.1", "1.0"])
            request = chat(version=version, stream=rng.random() < 0.6) * rng.choice([1, 1, 1, 2])
            if rng.random() < 0.15:
                await client.send(request)
                await asyncio.sleep(rng.random() * 0.03)
                return
            try:
                got = await client.ask(request, 10)
            except ConnectionError:
                return  # reset in the middle of an answer, or closed after the one before
            assert has_an_end(got), got
            if version == "1.0" or not got.complete or got.headers.get("connection") == "close":
                return


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_request_ends_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    pick = choose(lambda request: rng.choice(BEHAVIOURS))
    async with (
        FakeVllm(pick) as one,
        FakeVllm(pick) as two,
        running_plane([one, two], SETTINGS, max_queue_seconds=1.0) as plane,
    ):
        await asyncio.gather(*(one_client(plane, rng) for _ in range(150)))
        await plane.until(lambda: plane.data_plane.num_client_connections == 0 and plane.num_inflight == 0)
        arrived = plane.seen(RequestArrived)
        assert len(arrived) > 150
        assert len(plane.metrics.finished) == len(arrived)
        assert plane.dispatcher.num_ignored == {}
        workers = plane.dispatcher.pools["pool"].workers.values()
        assert [worker.num_inflight_tokens for worker in workers] == [0, 0]
        await plane.until(lambda: plane.data_plane.num_worker_connections == {"w0": (0, 0), "w1": (0, 0)})
