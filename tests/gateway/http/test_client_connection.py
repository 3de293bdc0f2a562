"""HTTP on the client's side: framing, limits, timeouts, and what must be refused."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.fake_vllm import FakeVllm, answer, silent, stream
from tests.support.running_plane import chat, get, post, running_plane, stream_chat, with_settings

BODY = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailer + b"\r\n"


async def test_every_byte_may_come_by_itself() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        for data in (chat(), chunked(BODY[:9], BODY[9:], trailer=b"x-t: 1\r\n"), stream_chat()):
            for i in range(len(data)):
                client.writer.write(data[i : i + 1])
                await asyncio.sleep(0)
            got = await client.receive()
            assert got.status == 200, got.body
        assert [r.json["messages"] for r in worker.requests] == [[{"role": "user", "content": "hi"}]] * 3


async def test_a_chunked_request_reaches_the_worker_with_its_length() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(chunked(BODY[:5], BODY[5:], trailer=b"x-trailer: 1\r\n"))).status == 200
        sent = worker.requests[0]
        assert (sent.body, sent.headers["content-length"]) == (BODY, str(len(BODY)))
        assert not {"transfer-encoding", "x-trailer"} & sent.headers.keys()


@pytest.mark.parametrize(("headers", "stays"), [((), False), (("connection: keep-alive",), True)])
async def test_http_1_0_keeps_the_connection_only_when_asked(headers: tuple[str, ...], stays: bool) -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(chat(*headers, version="1.0"))
        assert got.status == 200
        assert (got.headers["connection"] == "keep-alive") == stays
        if stays:
            assert (await client.ask(get("/health", *headers, version="1.0"))).status == 200
            assert (await client.ask(get("/health", version="1.0"))).status == 200
        assert await client.closed()


async def test_http_1_0_gets_a_stream_without_chunks() -> None:
    async with FakeVllm(stream(4)) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(stream_chat("connection: keep-alive", version="1.0"))
        assert got.headers["connection"] == "close"
        assert "transfer-encoding" not in got.headers
        assert got.text == " t0 t1 t2 t3"
        assert got.body.endswith(b"data: [DONE]\n\n")


async def test_connection_close_closes() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(chat("connection: close"))
        assert (got.status, got.headers["connection"]) == (200, "close")
        assert await client.closed()
        assert "connection" not in worker.requests[0].headers


async def test_hop_by_hop_and_named_headers_end_here() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        names = (
            "connection: x-mine, keep-alive",
            "x-mine: 1",
            "keep-alive: 5",
            "te: trailers",
            "proxy-authorization: x",
        )
        own = ("x-ranvier-tenant: t", "x-ranvier-ttft-slo-ms: 5", "x-ranvier-output-tokens: 9", "accept-encoding: gzip")
        await client.ask(chat(*names, *own, "x-other: kept"))
        sent = worker.requests[0].headers
        assert sent["x-other"] == "kept"
        assert sent["x-ranvier-output-tokens"] == "9"
        assert sent["host"] == f"127.0.0.1:{worker.port}"
        gone = {
            "x-mine",
            "keep-alive",
            "te",
            "proxy-authorization",
            "x-ranvier-tenant",
            "connection",
            "accept-encoding",
        }
        assert not gone & sent.keys()


async def test_head_is_answered_without_a_body() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        for path in ("/health", "/v1/models", "/version"):
            got = await client.ask(get(path, method="HEAD"))
            assert (got.status, int(got.headers["content-length"]) > 0) == (200, True)
        assert (await client.ask(chat())).status == 200


async def test_expect_100_continue() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        data = chat("expect: 100-continue")
        at = data.index(b"\r\n\r\n") + 4
        await client.send(data[:at])
        assert (await client.receive()).status == 100
        await client.send(data[at:])
        assert (await client.receive()).status == 200
        assert "expect" not in worker.requests[0].headers


async def test_a_pipelined_expectation_waits_for_its_turn() -> None:
    async with FakeVllm(answer(delay=0.03)) as worker, running_plane([worker]) as plane, plane.client() as client:
        data = chat("expect: 100-continue")
        at = data.index(b"\r\n\r\n") + 4
        await client.send(chat() + data[:at])
        assert (await client.receive()).status == 200
        assert (await client.receive()).status == 100
        await client.send(data[at:])
        assert (await client.receive()).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /x HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nho\x00st: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\nexpect: magic\r\ncontent-length: 1\r\n\r\nx", 417),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"GET nopath HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 300_000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"y" * 9_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4001\r\n\r\n", 413),
        (chunked(*[b"x" * 1000] * 5), 413),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 300_000, 431),
    ],
    ids=range(30),
)
async def test_what_is_refused_is_answered_once_and_the_connection_closed(data: bytes, status: int) -> None:
    settings = with_settings(max_body_bytes=4000)
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        got = await client.ask(data)
        assert (got.status, got.headers["connection"], got.json["error"]["code"]) == (status, "close", status)
        assert got.json["error"]["message"]
        assert await client.closed()
        assert worker.all_requests == []
        assert plane.metrics.refused == [status]


async def test_nothing_after_a_refusal_is_heard() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        bad = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        await client.send(chat("x-request-id: first") + bad + chat())
        first = await client.receive()
        assert (first.status, first.headers["x-request-id"]) == (200, "first")
        assert (await client.receive()).status == 400
        assert await client.closed()
        assert len(worker.requests) == 1


async def test_a_refused_body_that_still_comes_does_not_hide_the_answer() -> None:
    async with (
        FakeVllm() as worker,
        running_plane([worker], with_settings(max_body_bytes=1000)) as plane,
        plane.client() as client,
    ):
        await client.send(post("/v1/chat/completions", b"x" * 3_000_000))
        assert (await client.receive()).status == 413


async def test_an_absolute_url_and_an_upgrade_offer() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        data = chat("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: x")
        assert (await client.ask(data.replace(b" /v1", b" http://gw:80/v1", 1) + b"")).status == 200
        assert worker.requests[0].target == "/v1/chat/completions"
        assert not {"upgrade", "http2-settings"} & worker.requests[0].headers.keys()
        assert (await client.ask(get("/v1/realtime", "connection: upgrade", "upgrade: websocket"))).status == 501
        assert (await client.ask(chat())).status == 200


@pytest.mark.parametrize("sent", [b"GET /health HT", b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc"])
async def test_a_slow_request_is_timed_out(sent: bytes) -> None:
    settings = with_settings(header_timeout_seconds=0.05, body_timeout_seconds=0.05)
    async with running_plane([], settings) as plane, plane.client() as client:
        assert (await client.ask(sent)).status == 408
        assert await client.closed()


async def test_a_slow_head_is_timed_out_however_it_drips() -> None:
    async with running_plane([], with_settings(header_timeout_seconds=0.1)) as plane, plane.client() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        waiting = asyncio.ensure_future(client.receive())
        while not waiting.done():
            client.writer.write(b"a: b\r\n")
            await asyncio.sleep(0.01)
        assert (await waiting).status == 408


async def test_a_body_that_drips_is_timed_out() -> None:
    settings = with_settings(body_timeout_seconds=0.1, min_upload_bytes_per_second=5_000)
    async with running_plane([], settings) as plane, plane.client() as client:
        await client.send(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n\r\n")
        waiting = asyncio.ensure_future(client.receive())
        while not waiting.done():
            client.writer.write(b"a")
            await asyncio.sleep(0.01)
        assert (await waiting).status == 408


async def test_a_slow_body_that_is_fast_enough_comes_through() -> None:
    settings = with_settings(body_timeout_seconds=0.1, min_upload_bytes_per_second=1)
    async with FakeVllm() as worker, running_plane([worker], settings) as plane, plane.client() as client:
        request = chat(content="x" * 400)
        for at in range(0, len(request), 20):
            await client.send(request[at : at + 20])
            await asyncio.sleep(0.01)
        assert (await client.receive()).status == 200


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with running_plane([], with_settings(idle_timeout_seconds=0.05)) as plane:
        async with plane.client() as fresh, plane.client() as used:
            assert (await used.ask(get("/health"))).status == 503
            assert await fresh.closed()
            assert await used.closed()
        await plane.until(lambda: plane.data_plane.num_client_connections == 0)


async def test_one_connection_too_many() -> None:
    async with running_plane([], with_settings(max_connections=1)) as plane, plane.client() as one:
        await one.ask(get("/health"))
        async with plane.client() as two:
            assert (await two.receive()).status == 503
            assert await two.closed()


async def test_all_bodies_together_are_bounded() -> None:
    settings = with_settings(max_buffered_body_bytes=10_000)
    async with (
        FakeVllm(silent()) as worker,
        running_plane([worker], settings) as plane,
        plane.client() as one,
        plane.client() as two,
    ):
        await one.send(chat(content="x" * 6_000))
        await worker.wait_requests(1)
        assert (await two.ask(chat(content="x" * 6_000))).status == 503


async def test_a_half_closed_connection_counts_as_leaving() -> None:
    async with FakeVllm(silent()) as worker, running_plane([worker]) as plane, plane.client() as client:
        await client.send(chat())
        await worker.wait_requests(1)
        client.writer.write_eof()
        await worker.requests[0].wait_disconnected()
        assert plane.metrics.finished[0].ending == "cancelled"


async def test_a_client_that_pipelines_too_much_is_read_later() -> None:
    settings = with_settings(max_pipelined_requests=2)
    async with FakeVllm(answer(delay=0.005)) as worker, running_plane([worker], settings) as plane:
        async with plane.client() as client:
            for _ in range(12):
                await client.send(chat())
                await asyncio.sleep(0.001)
            for _ in range(12):
                assert (await client.receive()).status == 200
        assert len(worker.requests) == 12


async def test_unusable_and_repeated_request_ids_are_replaced() -> None:
    async with (
        FakeVllm(answer(delay=0.02)) as worker,
        running_plane([worker]) as plane,
        plane.client() as one,
        plane.client() as two,
    ):
        first, second = await asyncio.gather(one.ask(chat("x-request-id: same")), two.ask(chat("x-request-id: same")))
        assert len({first.headers["x-request-id"], second.headers["x-request-id"]}) == 2
        odd = await one.ask(chat('x-request-id: a"b c'))
        assert odd.headers["x-request-id"].isalnum()
        assert worker.requests[2].headers["x-request-id"] == odd.headers["x-request-id"]
