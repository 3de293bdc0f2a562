from __future__ import annotations

import asyncio

import pytest

from gateway.mockworker.answers import StreamedFlight, WholeFlight
from gateway.mockworker.api import queue_full
from gateway.mockworker.engine import EngineRequest, RequestStats
from gateway.mockworker.sse import Answer


class Pipe(asyncio.WriteTransport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


def stats(tokens: int, cached: int = 0) -> RequestStats:
    return RequestStats("r", 0, 1, 2, 3, 16, tokens, cached, 0, 0, 0)


def streamed(chat: bool = True, **options: bool) -> tuple[StreamedFlight, Pipe]:
    answer = Answer("r", "tiny", 1, chat=chat, num_prompt_tokens=16)
    flight, pipe = StreamedFlight(EngineRequest("r", 16, 5), answer, "stop", **options), Pipe()
    flight.attach(pipe)
    return flight, pipe


def unchunked(data: bytes) -> bytes:
    """The body of a chunked coding; ValueError if it is not one."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        if data[int(size, 16) : int(size, 16) + 2] != b"\r\n":
            raise ValueError("a chunk does not end where it says")
        data = data[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("options", [{}, {"include_usage": True}, {"include_usage": True, "continuous_usage": True}])
async def test_tokens_one_by_one_or_in_lumps_are_the_same_bytes(chat: bool, options: dict[str, bool]) -> None:
    slow, slow_pipe = streamed(chat, **options)
    for _ in range(4):
        slow.tokens(1)
    slow.finish(1, stats(5))
    lumped, lumped_pipe = streamed(chat, **options)
    lumped.tokens(2)
    lumped.finish(3, stats(5))
    at_once, at_once_pipe = streamed(chat, **options)
    at_once.finish(5, stats(5))
    bodies = {unchunked(b"".join(pipe.written)) for pipe in (slow_pipe, lumped_pipe, at_once_pipe)}
    assert len(bodies) == 1
    assert bodies.pop().count(b"data: ") == 5 + 1 + chat + bool(options)
    assert len(slow_pipe.written) == 5 and len(at_once_pipe.written) == 1


async def test_the_end_is_told_once() -> None:
    flight, _ = streamed()
    flight.finish(5, stats(5, cached=16))
    assert (await flight.done).num_cached_tokens == 16


async def test_cached_tokens_are_shown_only_when_asked() -> None:
    for shown in (True, False):
        flight, pipe = streamed(include_usage=True, show_cached=shown)
        flight.finish(5, stats(5, cached=16))
        assert (b'"cached_tokens":16' in pipe.written[0]) is shown


async def test_nothing_is_written_to_a_connection_that_closes() -> None:
    flight, pipe = streamed()
    pipe.closing = True
    flight.tokens(1)
    flight.finish(4, stats(5))
    assert pipe.written == [] and flight.done.done()


async def test_comments_and_errors_are_events_of_their_own() -> None:
    flight, pipe = streamed()
    flight.keep_alive()
    flight.fail(queue_full())
    comment, error = map(unchunked, pipe.written)
    assert comment == b": keep-alive\n\n"
    assert error.startswith(b'data: {"error": {"message": "The engine is currently busy')
    assert error.endswith(b'"code": 503}}\n\ndata: [DONE]\n\n')


async def test_a_whole_answer_waits_for_its_end() -> None:
    flight = WholeFlight(EngineRequest("r", 16, 5), Answer("r", "tiny", 1, chat=True, num_prompt_tokens=16), "stop")
    flight.tokens(3)
    assert not flight.done.done()
    flight.finish(2, stats(5))
    assert (await flight.done).num_output_tokens == 5
