"""Paths that no policy decides on: passed through, or refused where they administer a worker."""

from __future__ import annotations

import pytest

from gateway.core.events import WorkerHealthChanged
from tests.support.fake_vllm import FakeVllm, answer, close_before_first_byte, close_mid_body, error, raw, silent
from tests.support.running_plane import get, post, running_plane, with_settings


async def test_method_query_and_body_reach_a_worker() -> None:
    async with FakeVllm(answer(b'{"x":1}')) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(post("/a/b%20c?x=1&y=%2F", b"payload", "accept-encoding: gzip", "x-request-id: r-1"))
        assert (got.status, got.json, got.headers["x-request-id"]) == (200, {"x": 1}, "r-1")
        sent = worker.requests[0]
        assert (sent.method, sent.target, sent.body) == ("POST", "/a/b%20c?x=1&y=%2F", b"payload")
        assert sent.headers["accept-encoding"] == "gzip"
        assert (await client.ask(get("/version"))).json == {"version": "0.32.0"}
        assert plane.seen(type(None)) == []
        assert (await client.ask(get("/x", method="DELETE"))).status == 200
        assert "content-length" not in worker.requests[1].headers


async def test_redirects_are_not_followed() -> None:
    moved = answer(b"", status=307, headers={"location": "/elsewhere"})
    async with FakeVllm(moved) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(get("/docs?a=b"))
        assert (got.status, got.headers["location"]) == (307, "/elsewhere")
        assert len(worker.requests) == 1


@pytest.mark.parametrize("status", [204, 304, 404, 500, 503])
async def test_a_workers_status_is_passed_on_as_it_is(status: int) -> None:
    behaviour = raw(b"HTTP/1.1 %d X\r\n\r\n" % status, then="keep") if status < 400 else error(status)
    async with FakeVllm(behaviour) as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(get("/x"))).status == status
        assert (await client.ask(get("/version"))).status == 200


@pytest.mark.parametrize("path", ["/sleep", "/sleep/", "//sleep", "/%73leep?level=1", "/v1/load_lora_adapter",
                                  "/v1/../wake_up", "/reset_prefix_cache", "/collective_rpc"])  # fmt: skip
async def test_administrative_paths_are_closed(path: str) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(post(path, b"{}"))
        assert (got.status, got.json["error"]["code"]) == (403, 403)
        assert worker.all_requests == []


async def test_administrative_paths_may_be_opened() -> None:
    for allowed in ("/sleep", "*"):
        settings = with_settings(administrative_paths=frozenset([allowed]))
        async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
            assert (await client.ask(post("/sleep", b""))).status == 200
            assert worker.requests[0].target == "/sleep"


async def test_a_model_path_in_disguise_still_goes_to_the_dispatcher() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        for path in ("/v1/%63ompletions", "//v1/completions"):
            assert (await client.ask(post(path, b'{"prompt":"x"}'))).status == 200
        assert len(plane.metrics.finished) == 2


async def test_a_worker_that_cannot_be_reached_is_passed_over() -> None:
    async with FakeVllm() as one, FakeVllm() as two, running_plane([one, two]) as plane, plane.client() as client:
        await one.stop()
        assert [(await client.ask(post("/x", b"{}"))).status for _ in range(4)] == [200] * 4
        assert len(two.requests) == 4


async def test_only_what_may_be_asked_twice_is_asked_twice() -> None:
    async with (
        FakeVllm(close_before_first_byte()) as one,
        FakeVllm(close_before_first_byte()) as two,
        running_plane([one, two]) as plane,
        plane.client() as client,
    ):
        assert (await client.ask(post("/x", b"{}"))).status == 502
        assert len(one.requests) + len(two.requests) == 1
        assert (await client.ask(get("/x"))).status == 502
        assert len(one.requests) + len(two.requests) == 3


async def test_no_worker_a_silent_one_and_a_broken_one() -> None:
    settings = with_settings(first_byte_timeout_seconds=0.05)
    async with FakeVllm([silent(), close_mid_body()]) as worker, running_plane([worker], settings) as plane:
        async with plane.client() as client:
            assert (await client.ask(post("/x", b""))).status == 504
            assert not (await client.ask(get("/x"))).complete
        plane.runtime.submit(WorkerHealthChanged(plane.runtime.clock.time(), "w0", False))
        async with plane.client() as client:
            assert (await client.ask(get("/x"))).status == 503
            assert (await client.ask(get("/health"))).status == 503


async def test_a_client_that_leaves_a_passed_through_request() -> None:
    async with FakeVllm(silent()) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            await client.send(post("/x", b""))
            await worker.wait_requests(1)
        await worker.requests[0].wait_disconnected()
