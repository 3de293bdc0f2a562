"""What of a worker's answer goes on to the client, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.fake_connection import Exchange
from tests.support.fake_vllm import Behaviour, FakeVllm, answer, error, raw
from tests.support.running_plane import chat, get, running_plane

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"


def pieces(parts: Sequence[bytes]) -> Behaviour:
    """Sends them as reads of their own."""

    async def behave(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)
            await exchange.sleep(0.02)

    return behave


STRAYS = {
    "after a length": ([LENGTH + b"ab\r\n\r\n\r\n"], b"ab\r\n\r\n"),
    "after a length, later": ([LENGTH + b"ab", b"\r\n\r\n\r\n\r\n"], b"ab\r\n\r\n"),
    "after the last chunk": ([CHUNKED + b"2\r\nab\r\n0\r\n\r\n\r\n"], b"ab"),
    "after the last chunk, later": ([CHUNKED + b"2\r\nab\r\n", b"2\r\ncd\r\n0\r\n\r\n\r\n\r\n"], b"abcd"),
    "half a line": ([CHUNKED, b"2\r\nab\r\n0\r\n\r\n\r"], b"ab"),
    "after a last chunk in two reads": ([CHUNKED, b"2\r\nab\r\n0\r\n", b"\r\n\r\n"], b"ab"),
    "after trailers": ([CHUNKED + b"2\r\nab\r\n0\r\nx: y\r\n\r\n\r\n"], None),
    "none: a last chunk cut anywhere": ([CHUNKED, b"2\r\nab\r\n0", b"\r\n\r\n"], b"ab"),
    "none: a body that ends in lines": ([LENGTH + b"\r\n\r\n\r\n"], b"\r\n\r\n\r\n"),
    "no body": ([b"HTTP/1.1 204 No Content\r\n\r\n\r\n"], b""),
}


@pytest.mark.parametrize("name", STRAYS)
async def test_empty_lines_after_an_answer_stay_here(name: str) -> None:
    parts, body = STRAYS[name]
    async with (
        FakeVllm([pieces(parts), answer()]) as worker,
        running_plane([worker]) as plane,
        plane.client() as client,
    ):
        await client.send(get("/scripted"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 20"), head
        if body is not None and b"chunked" in head:
            data = await client.reader.readuntil(b"0\r\n\r\n")
            assert data.replace(b"2\r\n", b"").replace(b"\r\n", b"") == body + b"0"
        elif body is not None:
            assert await client.reader.readexactly(len(body)) == body
        else:
            await client.reader.readuntil(b"x: y\r\n\r\n")
        await client.send(get("/health"))
        assert await client.reader.readexactly(15) == b"HTTP/1.1 200 OK"


async def test_what_a_workers_connection_header_names_stays_here() -> None:
    lines = b"connection: keep-alive, X-Hop,content-length\r\nconnection: x-other\r\n"
    rest = b"x-hop: 1\r\nx-other: 2\r\nx-hopper: 3\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"
    script = raw(b"HTTP/1.1 200 OK\r\n" + lines + rest)
    async with FakeVllm(script) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(get("/scripted"))
    assert (got.body, got.headers["x-hopper"], got.headers["content-type"]) == (b"ok", "3", "text/plain")
    assert not {"x-hop", "x-other", "connection"} & set(got.headers)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("own", ["", "7"])
async def test_back_pressure_that_is_passed_on_says_when_to_come_back(status: int, own: str) -> None:
    headers = {"retry-after": own} if own else {}
    script = answer({"error": {"message": "full"}}, status=status, headers=headers)
    async with FakeVllm(script) as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(get("/scripted"))).headers["retry-after"] == (own or "1")


@pytest.mark.parametrize("status", [429, 503])
async def test_back_pressure_of_every_worker_says_when_to_come_back(status: int) -> None:
    pool = {"max_queue_seconds": 0.1, "back_pressure_seconds": 0.01, "max_turned_away": 3}
    async with FakeVllm(error(status)) as worker, running_plane([worker], **pool) as plane, plane.client() as client:
        got = await client.ask(chat())
    assert got.status in (status, 503)
    assert int(got.headers["retry-after"]) >= 1
