"""Retries before the first byte, endings after it, and what the dispatcher hears of a stream."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.core.commands import Cancel, Dispatch, Reject
from gateway.core.events import ClientLeft, FirstTokenSeen, RequestArrived, RequestEnded, WorkerLeft
from gateway.http import model_exchange
from tests.support.fake_vllm import (
    Behaviour,
    Exchange,
    FakeVllm,
    answer,
    close_after_headers,
    close_before_first_byte,
    close_mid_body,
    close_mid_stream,
    error,
    error_event,
    flood,
    garbage,
    garbage_in_stream,
    raw,
    silent,
    slow_bytes,
    stall_mid_stream,
    stream,
)
from tests.support.running_plane import chat, post, running_plane, stream_chat, with_settings
from tests.support.vllm_bytes import SSE_HEADERS, chunk, head, sse_events

IMPATIENT = with_settings(first_byte_timeout_seconds=0.05, inter_token_timeout_seconds=0.05, retry_timeouts=True)


@pytest.mark.parametrize(
    ("behaviour", "reason", "outcome"),
    [
        (error(500), "status_500", "failed"),
        (error(502), "status_502", "failed"),
        (error(503), "status_503", "rejected"),
        (error(429), "status_429", "rejected"),
        (answer(b'{"error":{}}', status=503, framing="chunked"), "status_503", "rejected"),
        (close_before_first_byte(), "lost", "failed"),
        (close_before_first_byte(reset=True), "lost", "failed"),
        (close_after_headers(), "lost", "failed"),
        (close_mid_stream(after=0, cut=40), "lost", "failed"),
        (garbage(), "garbled", "failed"),
        (garbage_in_stream(2), "garbled", "failed"),
        (error_event(503), "first_event_503", "rejected"),
        (error_event(429), "first_event_429", "rejected"),
        (error_event(500), "first_event_500", "failed"),
        (slow_bytes(error_event(503), size=7), "first_event_503", "rejected"),
        (raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, then="stall"), "too_large", "failed"),
        (silent(), "timeout", "failed"),
        (raw(b"HTTP/1.1 200 OK\r\n", then="stall"), "timeout", "failed"),
    ],
    ids=range(18),
)
async def test_a_failure_before_the_first_byte_is_tried_elsewhere(
    behaviour: Behaviour, reason: str, outcome: str
) -> None:
    async with FakeVllm(behaviour) as bad, FakeVllm(stream(3)) as good, running_plane([bad, good], IMPATIENT) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat())
        assert (got.status, got.text, got.complete) == (200, " t0 t1 t2", True)
        assert got.headers["x-ranvier-worker"] == "w1"
        assert plane.metrics.retried == [("w0", reason)]
        first, second = plane.seen(RequestEnded)
        assert (first.outcome, first.retriable, first.num_output_tokens) == (outcome, True, 0)
        assert (second.outcome, second.retriable) == ("completed", False)
        assert [f.ending for f in plane.metrics.finished] == ["completed"]


@pytest.mark.parametrize("behaviour", [silent(), raw(b"HTTP/1.1 200 OK\r\n", then="stall"), stall_mid_stream(0)])
async def test_what_a_worker_did_not_answer_in_time_is_not_asked_of_another(behaviour: Behaviour) -> None:
    """Slow workers would get several times the work."""
    settings = with_settings(first_byte_timeout_seconds=0.05, inter_token_timeout_seconds=0.05)
    async with FakeVllm(behaviour) as slow, FakeVllm() as other, running_plane([slow, other], settings) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat())
            assert (got.status, got.json["error"]["code"]) == (504, 504)
        assert (len(slow.requests), len(other.requests), plane.metrics.retried) == (1, 0, [])
        await slow.requests[0].wait_disconnected()
        (ended,) = plane.seen(RequestEnded)
        assert (ended.outcome, ended.retriable) == ("failed", False)
        assert [(f.status, f.ending) for f in plane.metrics.finished] == [(504, "failed")]


async def test_a_worker_that_refuses_connections_costs_the_client_nothing() -> None:
    async with FakeVllm() as bad, FakeVllm() as good:
        await bad.stop()
        async with running_plane([bad, good]) as plane, plane.client() as client:
            assert (await client.ask(chat())).status == 200
            assert plane.metrics.retried == [("w0", "connect")]


async def test_a_clients_own_fault_is_not_retried() -> None:
    async with FakeVllm(error(404)) as one, FakeVllm(error(404)) as two, running_plane([one, two]) as plane:
        async with plane.client() as client:
            got = await client.ask(chat())
        assert (got.status, got.json["error"]["type"]) == (404, "NotFoundError")
        assert len(one.requests) + len(two.requests) == 1
        (ended,) = plane.seen(RequestEnded)
        assert (ended.outcome, ended.retriable) == ("completed", False)


@pytest.mark.parametrize(
    ("behaviour", "status", "ending"),
    [
        (error(503, "busy"), 503, "rejected"),
        (error(500, "broken"), 500, "rejected"),
        (error_event(503), 503, "rejected"),
        (close_before_first_byte(), 502, "failed"),
        (answer(b"<html>", status=502), 502, "failed"),
    ],
    ids=range(5),
)
async def test_when_all_fail_the_client_gets_the_last_workers_words(
    behaviour: Behaviour, status: int, ending: str
) -> None:
    async with FakeVllm(behaviour) as worker, running_plane([worker], max_queue_seconds=0.2) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat())
        assert (got.status, got.json["error"]["code"]) == (status, status)
        assert plane.metrics.finished[0].status == status
        assert plane.num_inflight == 0
        assert len(worker.requests) == 3 or plane.answered(Reject)


async def garbled_later(exchange: Exchange) -> None:
    """Two events, and broken chunked coding a while after."""
    events = sse_events(exchange.request, 9)[:2]
    await exchange.send(head(200, SSE_HEADERS) + b"".join(map(chunk, events)))
    await exchange.sleep(0.03)
    await exchange.send(b"zz\r\nnot a chunk\r\n")


BREAKS = [
    close_mid_stream(2),
    close_mid_stream(2, cut=17),
    garbled_later,
    stall_mid_stream(2),
    close_mid_stream(2, reset=True),
]


@pytest.mark.parametrize("behaviour", BREAKS, ids=range(5))
async def test_a_stream_that_breaks_ends_in_an_error_event(behaviour: Behaviour) -> None:
    async with FakeVllm(behaviour) as worker, running_plane([worker], IMPATIENT) as plane, plane.client() as client:
        got = await client.ask(stream_chat())
        assert got.complete, "the chunked coding ends properly"
        assert got.events[-1]["error"]["code"] == 502
        assert "[DONE]" not in got.events
        assert got.text == " t0"
        assert await client.closed()
        (ended,) = plane.seen(RequestEnded)
        assert (ended.outcome, ended.retriable, ended.num_output_tokens) == ("failed", False, 1)
        assert plane.metrics.finished[0].ending == "failed"


async def test_a_stream_that_breaks_for_http_1_0() -> None:
    async with (
        FakeVllm(close_mid_stream(2, cut=9)) as worker,
        running_plane([worker]) as plane,
        plane.client() as client,
    ):
        got = await client.ask(stream_chat(version="1.0"))
        assert got.text == " t0"
        assert got.events[-1]["error"]["code"] == 502


async def test_a_whole_answer_that_breaks_is_not_taken_for_whole() -> None:
    async with FakeVllm(close_mid_body(sent=60)) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(chat())
        assert (got.status, got.complete) == (200, False)
        assert plane.seen(RequestEnded)[0].outcome == "failed"


async def test_an_engine_that_dies_in_a_stream_is_a_failure_though_it_says_done() -> None:
    async with FakeVllm(error_event(500, after=3)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat())
        assert got.events[-2]["error"]["code"] == 500
        assert plane.seen(RequestEnded)[0].outcome == "failed"


async def test_a_role_is_no_token_and_nor_is_a_comment() -> None:
    seen: list[bool] = []

    async def role_then_wait(exchange: Exchange) -> None:
        events = sse_events(exchange.request, 2)
        await exchange.send(head(200, SSE_HEADERS))
        await exchange.send(chunk(b": keep-alive\n\n"))
        await exchange.send(chunk(events[0]))
        await asyncio.sleep(0.05)
        seen.append(bool(plane.seen(FirstTokenSeen)))
        await exchange.send(chunk(events[1]))
        await plane.until(lambda: plane.seen(FirstTokenSeen))
        for event in events[2:]:
            await exchange.send(chunk(event))
        await exchange.send(b"0\r\n\r\n")

    async with FakeVllm(role_then_wait) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = await client.ask(stream_chat())
        assert (got.text, seen) == (" t0 t1", [False])
        assert got.body.startswith(b": keep-alive")
        assert plane.seen(RequestEnded)[0].num_output_tokens in (2, 3)


async def test_comments_are_held_with_the_head_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour = raw(head(200, SSE_HEADERS), chunk(b": keep-alive\n\n"), 0.15, chunk(b": keep-alive\n\n"), then="stall")
    async with FakeVllm(behaviour) as worker, running_plane([worker], clean=False) as plane, plane.client() as client:
        monkeypatch.setattr(model_exchange, "KEEP_ALIVE_AFTER_SECONDS", 0.1)
        await client.send(stream_chat())
        assert (await client.reader.readuntil(b"keep-alive\n\n")).startswith(b"HTTP/1.1 200")
        assert not plane.seen(FirstTokenSeen)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
async def test_a_stream_cut_anywhere_arrives_whole(size: int) -> None:
    async with FakeVllm(slow_bytes(stream(4, usage=True), size=size)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            got = await client.ask(stream_chat())
            assert (got.text, got.events[-1], got.complete) == (" t0 t1 t2 t3", "[DONE]", True)
            assert (await client.ask(stream_chat())).complete
        assert next(e.num_output_tokens for e in plane.seen(RequestEnded)) in (4, 5)
        assert len(plane.seen(FirstTokenSeen)) == 2


@pytest.mark.parametrize("framing", ["chunked", "content-length", "close"])
async def test_every_framing_of_a_stream(framing: str) -> None:
    async with (
        FakeVllm(stream(3, framing=framing)) as worker,
        running_plane([worker]) as plane,
        plane.client() as client,
    ):  # type: ignore[arg-type]
        got = await client.ask(stream_chat())
        assert (got.text, got.events[-1], got.complete) == (" t0 t1 t2", "[DONE]", True)
        assert plane.seen(RequestEnded)[0].outcome == "completed"


async def test_events_written_with_carriage_returns_are_not_held_back() -> None:
    event = b'data: {"choices":[{"text":"x"}]}\r\n\r\n'
    behaviour = raw(head(200, SSE_HEADERS), chunk(event), 0.01, chunk(event), then="stall")
    async with FakeVllm(behaviour) as worker, running_plane([worker], clean=False) as plane, plane.client() as client:
        await client.send(stream_chat())
        for _ in range(2):
            await asyncio.wait_for(client.reader.readuntil(event), 2)
        assert plane.tokens == {"w0": 2}


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("reset", [True, False])
async def test_a_client_that_leaves_cancels_at_once_whenever_it_leaves(after: int, reset: bool) -> None:
    async with FakeVllm(stall_mid_stream(after)) as worker, running_plane([worker]) as plane:
        async with plane.client() as client:
            await client.send(stream_chat())
            await worker.wait_requests(1)
            if after:
                await client.reader.readuntil(b"\n\n")
            if reset:
                client.leave()
        await worker.requests[0].wait_disconnected()
        (left,) = plane.seen(ClientLeft)
        assert plane.answered(Cancel) == [Cancel(left.request_id, "w0")]
        assert left.num_output_tokens == plane.tokens["w0"] == max(0, after - 1)


async def test_a_client_that_leaves_while_it_is_connected() -> None:
    async with FakeVllm(silent()) as worker, running_plane([worker]) as plane:
        for _ in range(5):
            async with plane.client() as client:
                await client.send(chat())
                client.leave()
        await plane.until(lambda: plane.data_plane.num_client_connections == 0 and plane.num_inflight == 0)

        await plane.until(
            lambda: len(set(plane.data_plane.num_worker_connections["w0"])) == 1
        )  # all that are open are idle
        assert plane.runtime.num_errors == 0


async def test_a_client_that_stops_reading_stops_the_worker() -> None:
    async with FakeVllm(flood(30_000_000)) as worker, running_plane([worker]) as plane, plane.client() as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(stream_chat())
        (request,) = await worker.wait_requests(1)
        sent = -1
        while sent != request.sent_bytes:
            sent = request.sent_bytes
            await asyncio.sleep(0.1)
        assert 0 < sent < 20_000_000
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got = await client.receive(20)
        assert got.complete
        assert len(got.body) > 29_000_000


async def test_a_client_that_reads_no_more_has_left() -> None:
    settings = with_settings(write_timeout_seconds=0.1)
    async with FakeVllm(flood(30_000_000)) as worker, running_plane([worker], settings) as plane:
        async with plane.client() as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(stream_chat())
            await worker.wait_requests(1)
            await worker.requests[0].wait_disconnected()
        assert plane.metrics.finished[0].ending == "cancelled"


async def test_a_client_that_reads_slowly_is_waited_for() -> None:
    """It never reads so much within the timeout that the gateway would go on reading from the worker."""
    settings = with_settings(write_timeout_seconds=0.3)
    async with FakeVllm(flood(30_000_000)) as worker, running_plane([worker], settings) as plane:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", plane.port))
            await loop.sock_sendall(client, stream_chat())
            for _ in range(40):
                assert await loop.sock_recv(client, 3_000)
                await asyncio.sleep(0.03)
            assert plane.metrics.finished == []


async def test_a_worker_that_drains_is_no_failure_and_another_answers() -> None:
    """vLLM with --shutdown-timeout, after SIGTERM."""
    body = b'{"error":{"message":"cannot schedule new futures after shutdown","type":"InternalServerError","code":500}}'
    head = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    draining = raw(head % len(body) + body, then="close")
    async with FakeVllm(draining) as one, FakeVllm() as two, running_plane([one, two]) as plane:
        async with plane.client() as client:
            for _ in range(8):
                assert (await client.ask(chat())).status == 200
        assert plane.metrics.retried == [("w0", "shutting_down")]
        assert plane.dispatcher.pools["pool"].workers["w0"].num_failures_in_row == 0
        assert [event.outcome for event in plane.seen(RequestEnded)].count("failed") == 0


async def test_a_request_that_takes_too_long_in_all_gets_an_error() -> None:
    settings = with_settings(total_timeout_seconds=0.2)
    scripts = [silent(), stall_mid_stream(2)]
    async with FakeVllm(scripts) as worker, running_plane([worker], settings) as plane:
        async with plane.client() as client:
            assert (await client.ask(chat())).status == 504
        async with plane.client() as client:
            got = await client.ask(stream_chat())
            assert (got.text, got.events[-1]["error"]["message"]) == (
                " t0",
                "The request took longer than it may in all.",
            )
            assert got.complete
        for request in worker.requests:
            await request.wait_disconnected()
        assert [f.ending for f in plane.metrics.finished] == ["failed", "failed"]


async def test_what_the_dispatcher_hears_of_a_request() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        limits = ("x-ranvier-ttft-slo-ms: 1500", "x-ranvier-deadline-ms: 9000", "x-ranvier-output-tokens: 98765432")
        headers = ("x-session-id: s", "x-ranvier-tenant: acme", *limits)
        await client.ask(stream_chat(*headers, max_tokens=9, priority=2))
        (arrived,) = plane.seen(RequestArrived)
        assert (arrived.model, arrived.tenant, arrived.session_id, arrived.stream) == ("tiny", "acme", "s", True)
        assert (arrived.max_tokens, arrived.priority, arrived.ttft_slo) == (9, -2, 1.5)
        assert arrived.deadline == pytest.approx(arrived.time + 9.0)
        assert "98765432" not in repr(arrived)


async def test_a_worker_that_is_removed_gives_its_requests_back() -> None:
    async with (
        FakeVllm(silent()) as one,
        FakeVllm(stall_mid_stream(2)) as two,
        FakeVllm(stream(2)) as three,
        running_plane([one, two]) as plane,
        plane.client() as waiting,
        plane.client() as streaming,
    ):
        await waiting.send(stream_chat())
        await one.wait_requests(1)
        await streaming.send(stream_chat())
        await two.wait_requests(1)
        await plane.until(lambda: plane.tokens["w1"] == 1)
        plane.add(three, "w2")
        for worker_id in ("w0", "w1"):
            plane.runtime.submit(WorkerLeft(plane.runtime.clock.time(), worker_id))
            plane.data_plane.remove_worker(worker_id)
        assert (await waiting.receive()).text == " t0 t1"
        broken = await streaming.receive()
        assert (broken.text, broken.events[-1]["error"]["code"]) == (" t0", 502)
        assert plane.tokens == {"w2": plane.tokens["w2"]}


async def test_a_dispatch_to_a_worker_that_is_not_there_fails_over() -> None:
    async with FakeVllm(stream(2)) as one, FakeVllm(stream(2)) as two, running_plane([one, two]) as plane:
        plane.data_plane.remove_worker("w0")
        async with plane.client() as client:
            assert (await client.ask(stream_chat())).text == " t0 t1"
        assert plane.metrics.retried == [("w0", "removed")]
        assert [c.worker_id for c in plane.answered(Dispatch)] == ["w0", "w1"]


async def test_rejections_have_openais_shape() -> None:
    async with running_plane([], models=("tiny",)) as plane, plane.client() as client:
        got = await client.ask(chat())
        assert (got.status, got.json["error"]["code"]) == (503, 503)
        assert int(got.headers["retry-after"]) >= 1
        unknown = await client.ask(post("/v1/completions", b'{"model":"nope","prompt":"x"}'))
        assert (unknown.status, unknown.json["error"]["type"], unknown.json["error"]["param"]) == (
            404,
            "NotFoundError",
            "model",
        )


async def test_a_stream_without_any_event_is_passed_on() -> None:
    async with (
        FakeVllm(raw(head(200, SSE_HEADERS), b"0\r\n\r\n", then="keep")) as worker,
        running_plane([worker]) as plane,
        plane.client() as client,
    ):
        got = await client.ask(stream_chat())
        assert (got.status, got.body, got.complete) == (200, b"", True)


async def test_interim_answers_of_a_worker_are_dropped() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    final = head(200, {"content-length": "2", "x-a": "b"}) + b"{}"
    for parts in ((early + early + final,), (early, 0.01, early + final[:9], 0.01, final[9:])):
        async with (
            FakeVllm(raw(*parts, then="keep")) as worker,
            running_plane([worker]) as plane,
            plane.client() as client,
        ):
            got = await client.ask(chat())
            assert (got.status, got.body, got.headers["x-a"]) == (200, b"{}", "b")
            assert "link" not in got.headers


async def test_more_than_an_answer_is_not_passed_on() -> None:
    excess = head(200, {"content-length": "2"}) + b"{}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with (
        FakeVllm(raw(excess, then="keep")) as bad,
        FakeVllm() as good,
        running_plane([bad, good]) as plane,
        plane.client() as client,
    ):
        got = await client.ask(chat())
        assert (got.status, got.headers["x-ranvier-worker"]) == (200, "w1")


async def test_a_large_body_goes_through() -> None:
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(chat(content="x" * 2_000_000))).status == 200
        assert len(worker.requests[0].body) > 2_000_000


async def test_five_hundred_at_once() -> None:
    async with (
        FakeVllm(stream(3, gap=0.01)) as one,
        FakeVllm(stream(3, gap=0.01)) as two,
        running_plane([one, two]) as plane,
    ):

        async def ask() -> str:
            async with plane.client() as client:
                return (await client.ask(stream_chat(), 30)).text

        assert set(await asyncio.gather(*(ask() for _ in range(500)))) == {" t0 t1 t2"}
