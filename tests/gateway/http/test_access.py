"""API keys on the data port, over real sockets: what a worker gets to see and what it never does."""

from __future__ import annotations

import json

import pytest

from gateway.api_keys import ApiKey, digest
from gateway.core.events import RequestArrived
from tests.support.fake_vllm import FakeVllm
from tests.support.running_plane import RunningPlane, chat, get, post, running_plane, stream_chat, with_settings

ANY = "authorization: Bearer any"
TINY = "authorization: Bearer tiny-only"


def lock(plane: RunningPlane) -> None:
    plane.data_plane.api_keys = {
        digest(b"any"): ApiKey("any", "acme", frozenset(), 5),
        digest(b"tiny-only"): ApiKey("tiny", "small", frozenset(("tiny",)), 0),
    }


@pytest.mark.parametrize(
    "request_bytes",
    [
        chat(),
        chat("authorization: Bearer wrong"),
        chat("authorization: Basic any"),
        stream_chat("x-api-key: wrong"),
        get("/v1/models"),
        get("/metrics"),
        get("/health", method="POST"),
        post("//v1//chat/completions", b"{}"),
    ],
)
async def test_without_a_key_nothing_reaches_a_worker(request_bytes: bytes) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane:
        lock(plane)
        async with plane.client() as client:
            got = await client.ask(request_bytes)
            assert got.status == 401
            assert (got.json["error"]["code"], got.json["error"]["type"]) == (
                "invalid_api_key",
                "invalid_request_error",
            )
            assert got.headers["www-authenticate"] == "Bearer"
            assert await client.closed()
        assert worker.requests == []
        assert plane.seen(RequestArrived) == []
        assert plane.metrics.refused == [401]


async def test_a_body_without_a_key_is_not_waited_for() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        await client.send(chat()[:-5])
        assert (await client.receive()).status == 401
        assert plane.data_plane.num_buffered_body_bytes == 0


async def test_an_expectation_is_not_met_without_a_key() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        assert (await client.ask(chat("expect: 100-continue"))).status == 401


async def test_health_needs_no_key() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        assert (await client.ask(get("/health"))).status == 200


@pytest.mark.parametrize("header", [ANY, "authorization: bearer any", "x-api-key: any"])
async def test_the_tenant_is_the_keys_and_the_key_stays_here(header: str) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        assert (await client.ask(chat(header, "x-ranvier-tenant: somebody"))).status == 200
        (arrived,) = plane.seen(RequestArrived)
        assert (arrived.tenant, arrived.priority) == ("acme", 5)
        assert not {"authorization", "x-api-key", "x-ranvier-tenant"} & set(worker.requests[0].headers)


@pytest.mark.parametrize(("asked", "got"), [(-7, 5), (2, 3)])
async def test_a_request_may_ask_for_less_than_its_keys_priority(asked: int, got: int) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        await client.ask(chat(ANY, priority=asked))
        assert plane.seen(RequestArrived)[0].priority == got


async def test_a_key_is_passed_on_when_asked_for() -> None:
    settings = with_settings(forward_authorization=True)
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        lock(plane)
        await client.ask(chat(ANY))
        assert worker.requests[0].headers["authorization"] == "Bearer any"


async def test_a_worker_gets_its_own_key_in_place_of_the_clients() -> None:
    async with FakeVllm() as worker, running_plane() as plane, plane.client() as client:
        plane.add(worker, "w0", api_key="workers")
        await client.ask(chat("Authorization: Bearer client"))
        await client.ask(get("/version", "authorization: Bearer client"))
        await client.ask(get("/v1/models", "authorization: Bearer client"))
        assert [r.headers["authorization"] for r in worker.requests] == ["Bearer workers"] * len(worker.requests)
        assert len(worker.requests) >= 1


async def test_a_model_that_a_key_may_not_use_is_not_there() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        for body in ({"model": "other", "prompt": "x"}, {"prompt": "x"}):
            got = await client.ask(post("/v1/completions", json.dumps(body).encode(), TINY))
            assert (got.status, got.json["error"]["param"]) == (404, "model")
        assert worker.requests == []
        assert (await client.ask(chat(TINY))).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/metrics", TINY),
        post("/v1/models", b"{}", TINY),
        post("/v1/audio/transcriptions", b"x", TINY, "content-type: Multipart/form-data; boundary=b"),
    ],
)
async def test_a_key_for_certain_models_asks_only_what_can_be_checked(request_bytes: bytes) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        assert (await client.ask(request_bytes)).status == 403
        assert worker.requests == []


async def test_only_models_that_may_be_used_are_listed() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        plane.data_plane.api_keys = {
            digest(b"a"): ApiKey("a", "t", frozenset(("tiny",)), 0),
            digest(b"b"): ApiKey("b", "t", frozenset(("other",)), 0),
        }
        listed = [
            [m["id"] for m in (await client.ask(get("/v1/models", f"authorization: Bearer {key}"))).json["data"]]
            for key in "ab"
        ]
        assert listed == [["tiny"], []]


async def test_a_revoked_key_is_refused_from_the_next_request_on() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        lock(plane)
        assert (await client.ask(chat(ANY))).status == 200
        plane.data_plane.api_keys = {}
        assert (await client.ask(chat(ANY))).status == 401
