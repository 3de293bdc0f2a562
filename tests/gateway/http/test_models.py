"""GET /v1/models over all workers."""

from __future__ import annotations

from tests.support.fake_vllm import FakeVllm, answer, garbage, silent
from tests.support.running_plane import get, running_plane, with_settings


async def test_models_of_all_workers_once_each() -> None:
    async with (
        FakeVllm(model="a") as one,
        FakeVllm(model="b") as two,
        FakeVllm(model="a") as three,
        running_plane([one, two, three]) as plane,
        plane.client() as client,
    ):
        got = await client.ask(get("/v1/models", "authorization: Bearer k"))
        assert (got.status, got.json["object"]) == (200, "list")
        assert [model["id"] for model in got.json["data"]] == ["a", "b"]
        assert one.all_requests[0].headers["authorization"] == "Bearer k"
        await client.ask(get("/v1/models"))
        assert len(one.all_requests) == 1, "the second answer came from the first"


async def test_a_worker_that_does_not_answer_keeps_what_was_known() -> None:
    settings = with_settings(models_max_age_seconds=0.0, models_timeout_seconds=0.05)
    async with (
        FakeVllm(model="a") as one,
        FakeVllm(model="b") as two,
        running_plane([one, two], settings) as plane,
        plane.client() as client,
    ):
        for route in (
            two.routes["/v1/models"],
            silent(),
            garbage(),
            answer(b"{}"),
            answer(b'{"data":[1]}', status=500),
        ):
            two.routes["/v1/models"] = route
            got = await client.ask(get("/v1/models"))
            ids = [model["id"] for model in got.json["data"]]
            assert ids == (["a"] if not plane.data_plane._models._by_worker["w1"] else ["a", "b"])
        plane.data_plane.remove_worker("w1")
        assert [model["id"] for model in (await client.ask(get("/v1/models"))).json["data"]] == ["a"]


async def test_a_client_that_does_not_wait_for_the_list() -> None:
    async with (
        FakeVllm(routes={"/v1/models": silent()}) as worker,
        running_plane([worker], with_settings(models_timeout_seconds=0.05)) as plane,
    ):
        async with plane.client() as client:
            await client.send(get("/v1/models"))
        async with plane.client() as client:
            assert (await client.ask(get("/v1/models"))).json["data"] == []
