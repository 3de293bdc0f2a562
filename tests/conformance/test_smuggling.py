"""What could be read as two requests is refused and its connection closed, or reaches a worker as exactly one.

Each request of the corpus is followed by another on the same connection, sent whole and byte by byte. A fake worker
records what arrives; its own parser is another one than the gateway's.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.smuggling_corpus import BODY, CORPUS, ONE
from tests.support.fake_vllm import FakeVllm, raw
from tests.support.running_plane import Client, get, running_plane, stream_chat

NEXT = get("/next")


async def send(client: Client, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        client.writer.write(data[start : start + size])
        await asyncio.sleep(0)


async def refused(worker: FakeVllm, client: Client, status: int) -> None:
    got = await client.receive()
    assert got.status == status, got
    if status == 403:  # which is about the path alone: where the request ends is beyond doubt
        assert (await client.receive()).status == 200
        assert [request.target for request in worker.requests] == ["/next"]
    else:
        assert got.headers["connection"] == "close"
        assert await client.closed()
        assert worker.requests == []


async def forwarded(worker: FakeVllm, client: Client, data: bytes) -> None:
    assert [(await client.receive()).status for _ in range(2)] == [200, 200]
    assert [request.target for request in worker.requests] == ["/echo", "/next"]
    assert worker.requests[0].body == (BODY if BODY in data else b"")
    assert "transfer-encoding" not in worker.requests[0].headers


@pytest.mark.parametrize("size", [1 << 20, 1], ids=["whole", "by byte"])
async def test_each_is_refused_or_forwarded_as_one(size: int) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane:
        for name, (status, data) in CORPUS.items():
            worker.requests.clear()
            try:
                async with plane.client() as client:
                    await send(client, data + NEXT, size)
                    await (forwarded(worker, client, data) if status == ONE else refused(worker, client, status))
                assert "/smuggled" not in [request.path for request in worker.all_requests]
            except BaseException as error:
                error.add_note(f"case: {name}")
                raise


OK = b"HTTP/1.1 200 OK\r\n"
HELLO = b"content-length: 2\r\n\r\nhi"
CODED = b"\r\n2\r\nhi\r\n0\r\n\r\n"
FAULTY_ANSWERS = {
    "empty lines before": b"\r\n\r\n" + OK + HELLO,
    "a bare LF before": b"\n" + OK + HELLO,
    "empty lines after an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n\r\n\r\n" + OK + HELLO,
    "both framings": OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n" + CODED,
    "two lengths": OK + b"content-length: 2\r\n" + HELLO,
    "identity": OK + b"transfer-encoding: identity\r\n\r\nhi",
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n" + CODED,
    "gzip and chunked": OK + b"transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n" + CODED,
    "folded": OK + b"x: a\r\n b\r\n" + HELLO,
    "a bare LF": OK + b"x: a\ny: b\r\n" + HELLO,
    "a blank before a colon": OK + b"x : a\r\n" + HELLO,
    "NUL in a value": OK + b"x: \0\r\n" + HELLO,
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n" + HELLO,
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + HELLO,
    "another protocol": b"ICE/1.0 200 OK\r\n" + HELLO,
    "switching protocols": b"HTTP/1.1 101 OK\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhi",
    "a second answer": OK + HELLO + OK + HELLO,
    "more than its length": OK + HELLO + b"more",
    "a chunk size ended by LF": OK + b"transfer-encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n" + HELLO,
}


async def test_no_answer_is_passed_on_that_could_be_read_as_two() -> None:
    async with FakeVllm() as worker, running_plane([worker], max_attempts=1) as plane:
        for name, data in FAULTY_ANSWERS.items():
            for parts in ([data], [piece for byte in data for piece in (bytes([byte]), 0.0)]):
                worker.script = raw(*parts)
                async with plane.client() as client:
                    assert (await client.ask(stream_chat())).status == 502, name
                    assert (await client.ask(get("/health"))).complete, name  # and the connection is good
