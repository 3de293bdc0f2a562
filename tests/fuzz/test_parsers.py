"""Damaged bytes from clients and from workers, split at random: nothing stops the loop, nothing stays in flight, and
each connection gets well-formed answers, a close, or a reset in the middle of one.

``RANVIER_FUZZ_INPUTS`` (default 300 for each side) and ``RANVIER_FUZZ_SEED`` (default 1) make it longer or another run.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.core.events import RequestArrived
from gateway.http.settings import HttpSettings
from tests.conformance.smuggling_corpus import CORPUS
from tests.conformance.test_smuggling import FAULTY_ANSWERS
from tests.fuzz.mutate import mutated, split
from tests.support.fake_connection import Exchange, Recorded
from tests.support.fake_vllm import FakeVllm, auto
from tests.support.running_plane import RunningPlane, chat, get, running_plane, stream_chat, with_settings
from tests.support.vllm_bytes import LAST_CHUNK, SSE_HEADERS, chunk, completion, dump, error_body, head, sse_events

NUM_INPUTS = int(os.environ.get("RANVIER_FUZZ_INPUTS", "300"))
SEED = int(os.environ.get("RANVIER_FUZZ_SEED", "1"))
CONCURRENCY = 64
SETTINGS = with_settings(
    header_timeout_seconds=0.1,
    body_timeout_seconds=0.1,
    idle_timeout_seconds=0.1,
    write_timeout_seconds=1.0,
    linger_seconds=0.3,
    first_byte_timeout_seconds=0.1,
    inter_token_timeout_seconds=0.1,
    max_body_bytes=20_000,
)


@asynccontextmanager
async def watched(
    workers: list[FakeVllm], settings: HttpSettings = SETTINGS
) -> AsyncIterator[tuple[RunningPlane, Counter[str]]]:
    """A plane at whose end nothing is left behind and nothing has gone wrong in the event loop."""
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: wrong.append(context))
    tally: Counter[str] = Counter()
    async with running_plane(workers, settings, max_queue_seconds=0.5) as plane:
        yield plane, tally
        await plane.until(lambda: plane.data_plane.num_client_connections == 0, 30)
        assert len(plane.metrics.finished) == len(plane.seen(RequestArrived))
        assert plane.dispatcher.num_ignored == {}
    assert wrong == []
    print(f"\n{sum(tally.values())} inputs, {len(plane.metrics.finished)} requests to a model: {dict(tally)}")


START = re.compile(rb"HTTP/1\.1 ([1-9]\d\d) [^\r\n\0]*\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n)*)\r\n")
CHUNK = re.compile(rb"([0-9a-fA-F]+)(?:;[^\r\n]*)?\r\n")
TRAILER = re.compile(rb"(?:[^\r\n:]+:[^\r\n]*\r\n)*\r\n")


def statuses(data: bytes, head_only: bool = False) -> Iterator[int]:
    """Of the answers in all that a client read; ValueError if it is no sequence of answers, EOFError if the last one
    has no end of its own. Empty lines after an answer are let pass: the gateway passes a worker's on."""
    at = 0
    while at < len(data):
        start = START.match(data, at)
        if start is None:
            raise EOFError if b"\r\n\r\n" not in data[at:] else ValueError(data[at : at + 200])
        status, headers, at = int(start[1]), start[2].lower(), start.end()
        if status >= 200:
            at = _body_end(data, at, b"\r\n" + headers, head_only or status in (204, 304))
            at += len(data[at:]) - len(data[at:].lstrip(b"\r\n"))
        yield status


def _body_end(data: bytes, at: int, headers: bytes, bodiless: bool) -> int:
    if bodiless:
        return at
    if b"\r\ntransfer-encoding: chunked\r\n" in headers:
        return _chunks_end(data, at)
    lengths = re.findall(rb"\r\ncontent-length:\s*(\d+)", headers)
    if len(lengths) > 1:
        raise ValueError(headers)
    end = at + int(lengths[0]) if lengths else len(data)
    if end > len(data):
        raise EOFError
    return end


def _chunks_end(data: bytes, at: int) -> int:
    while True:
        size = CHUNK.match(data, at)
        if size is None:
            raise EOFError if b"\r\n" not in data[at:] else ValueError(data[at : at + 200])
        at = size.end() + int(size[1], 16)
        if int(size[1], 16) == 0:
            trailer = TRAILER.match(data, at)
            if trailer is None:
                raise EOFError
            return trailer.end()
        if len(data) < at + 2:
            raise EOFError
        if data[at : at + 2] != b"\r\n":
            raise ValueError(data[at : at + 200])
        at += 2


@asynccontextmanager
async def noted(what: Callable[[], object]) -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as error:
        error.add_note(repr(what()))
        raise


async def read_to_the_end(plane: RunningPlane, pieces: list[bytes], rng: random.Random) -> tuple[bytes, bool]:
    """All that comes on one connection, and whether it was reset. A connection that is not over in time is a fault."""
    got = b""
    async with plane.client() as client, noted(lambda: (pieces, got)), asyncio.timeout(60):
        try:
            for piece in pieces:
                client.writer.write(piece)
                await asyncio.sleep(rng.choice((0, 0, 0.001)))
            while piece := await client.reader.read(65536):
                got += piece
        except ConnectionError:
            return got, True
    return got, False


async def in_parallel(count: int, one: Any) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())


REQUESTS = [
    *[data for _, data in CORPUS.values()],
    *[chat(), stream_chat(), chat() * 3, stream_chat(version="1.0"), chat("expect: 100-continue"), get("/v1/models")]
    * 8,
]


async def test_bytes_of_clients() -> None:
    async with FakeVllm(auto()) as worker, watched([worker]) as (plane, tally):

        async def one(number: int) -> None:
            rng = random.Random(f"{SEED}/client/{number}")
            data = mutated(rng, REQUESTS)
            got, was_reset = await read_to_the_end(plane, split(rng, data), rng)
            try:
                seen = list(statuses(got, head_only=data.startswith(b"HEAD")))
                tally[str(seen[0]) if seen else "reset" if was_reset else "closed"] += 1
            except EOFError:
                assert was_reset, (number, data, got)
                tally["reset"] += 1
            except ValueError as error:
                raise AssertionError((number, data, got)) from error

        await in_parallel(NUM_INPUTS, one)


def answers_of_a_worker() -> list[bytes]:
    request = Recorded("POST", "/v1/chat/completions", {"x-request-id": "r"}, b'{"model":"tiny","stream":true}', 0, 0.0)
    events = sse_events(request, 4, usage=True)
    whole, failure = dump(completion(request, 3, 16)), dump(error_body(503))
    as_json = {"content-type": "application/json"}
    streamed = head(200, SSE_HEADERS) + b"".join(map(chunk, events)) + LAST_CHUNK
    by_close = head(200, {"content-type": "text/event-stream"}) + b"".join(events)
    return [
        *[streamed, by_close, head(200, {**as_json, "content-length": str(len(whole))}) + whole] * 8,
        *[head(503, {**as_json, "content-length": str(len(failure))}) + failure] * 2,
        *[head(200, SSE_HEADERS) + chunk(b"data: " + failure + b"\n\n") + LAST_CHUNK] * 2,
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + streamed,
        *FAULTY_ANSWERS.values(),
    ]


ANSWERS = answers_of_a_worker()
ASKED = [chat(), stream_chat(), stream_chat(version="1.0"), get("/version"), get("/version", method="HEAD")]


async def test_bytes_of_workers() -> None:
    async def behave(exchange: Exchange) -> None:
        number = exchange.request.headers["x-request-id"]
        attempts[number] += 1
        rng = random.Random(f"{SEED}/worker/{number}/{attempts[number]}")
        for piece in split(rng, mutated(rng, ANSWERS)):
            await exchange.send(piece)
            await exchange.sleep(rng.choice((0, 0, 0.001)))
        match rng.randrange(4):
            case 0:
                exchange.close()
            case 1:
                exchange.reset()
            case 2:
                await exchange.forever()

    attempts: Counter[str] = Counter()
    async with (
        FakeVllm(behave, routes={"/version": behave}) as worker_a,
        FakeVllm(behave, routes={"/version": behave}) as worker_b,
        watched([worker_a, worker_b], replace(SETTINGS, idle_timeout_seconds=30.0)) as (plane, tally),
    ):

        async def one(number: int) -> None:
            rng = random.Random(f"{SEED}/asked/{number}")
            asked = rng.choice(ASKED).replace(
                b"\r\nhost", b"\r\nconnection: close\r\nx-request-id: n%d\r\nhost" % number
            )
            got, was_reset = await read_to_the_end(plane, [asked], rng)
            try:
                seen = list(statuses(got, head_only=asked.startswith(b"HEAD")))
                assert len(seen) == 1 or was_reset, (number, got)
                tally[str(seen[0]) if seen else "reset"] += 1
            except (EOFError, ValueError):
                # cut; or its chunk sizes lied: the client can see that, and has the error event beside
                assert was_reset or b'"code":502' in got, (number, got)
                tally["reset" if was_reset else "garbled"] += 1

        await in_parallel(NUM_INPUTS, one)
