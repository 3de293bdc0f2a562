"""Whom a worker is told a request came from, over real sockets."""

from __future__ import annotations

import pytest

from gateway.http.settings import Forwarded
from tests.support.fake_vllm import FakeVllm
from tests.support.running_plane import chat, running_plane, with_settings

CLAIMS = (
    "X-Forwarded-For: 9.9.9.9",
    "x-forwarded-proto: https",
    "X-Forwarded-Host: a.example",
    "forwarded: for=1.1.1.1",
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("pass", ("9.9.9.9", "https", "a.example", "for=1.1.1.1")),
        ("replace", ("127.0.0.1", "http", "gateway", None)),
        ("append", ("9.9.9.9, 127.0.0.1", "https", "a.example", "for=1.1.1.1")),
    ],
)
async def test_what_a_client_claims(mode: Forwarded, expected: tuple[str | None, ...]) -> None:
    settings = with_settings(forwarded=mode)
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        assert (await client.ask(chat(*CLAIMS))).status == 200
        names = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")
        assert tuple(worker.requests[0].headers.get(name) for name in names) == expected
        assert "via" not in worker.requests[0].headers


async def test_a_proxy_that_says_little_is_completed() -> None:
    settings = with_settings(forwarded="append")
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        await client.ask(chat())
        headers = worker.requests[0].headers
        assert (headers["x-forwarded-for"], headers["x-forwarded-proto"], headers["x-forwarded-host"]) == (
            "127.0.0.1",
            "http",
            "gateway",
        )
