"""Where a request's tokens go: onto its socket as they are made, or into one body at the end."""

from __future__ import annotations

import asyncio
import json

from gateway.mockworker import tokens
from gateway.mockworker.api import ApiError
from gateway.mockworker.engine import EngineRequest, RequestStats
from gateway.mockworker.sse import DONE, KEEP_ALIVE, Answer, http_chunk


class WholeFlight:
    """A request whose answer is sent when it is complete."""

    def __init__(self, request: EngineRequest, answer: Answer, finish_reason: str) -> None:
        self.request = request
        self.answer = answer
        self.finish_reason = finish_reason
        self.done: asyncio.Future[RequestStats] = asyncio.get_running_loop().create_future()

    def tokens(self, count: int) -> None:
        """Nothing to do: the body is written once."""

    def finish(self, count: int, stats: RequestStats) -> None:
        if not self.done.done():
            self.done.set_result(stats)


class StreamedFlight(WholeFlight):
    """A request whose tokens are written to its connection by the driver itself: a task woken for every token would
    cost more than the token. A slow reader makes the transport buffer, as it makes a vLLM buffer."""

    def __init__(
        self,
        request: EngineRequest,
        answer: Answer,
        finish_reason: str,
        *,
        include_usage: bool = False,
        continuous_usage: bool = False,
        show_cached: bool = False,
    ) -> None:
        super().__init__(request, answer, finish_reason)
        self._before, self._after = answer.chunk_parts()
        self._usage = include_usage
        self._continuous = include_usage and continuous_usage
        self._show_cached = show_cached
        self._transport: asyncio.WriteTransport | None = None
        self._made = 0
        self.num_writes = 0

    def attach(self, transport: asyncio.WriteTransport) -> None:
        """The connection on which a chunked answer has begun; to be called before the first token."""
        self._transport = transport

    def tokens(self, count: int) -> None:
        self._write(self._events(count))

    def finish(self, count: int, stats: RequestStats) -> None:
        before = self._events(count - 1)
        cached = stats.num_cached_tokens if self._show_cached else None
        last = self.answer.last(self._made + 1, self.finish_reason, self._usage, self._continuous, cached)
        self._write(before + http_chunk(last))
        super().finish(count, stats)

    def keep_alive(self) -> None:
        self._write(http_chunk(KEEP_ALIVE))

    def fail(self, error: ApiError) -> None:
        """An error in the middle of a stream, spelled as vLLM spells it."""
        event = b"data: " + json.dumps(json.loads(error.body())).encode() + b"\n\n"
        self._write(http_chunk(event + DONE))

    def _events(self, count: int) -> bytes:
        opening = b"" if self._made else self._opening()
        start, self._made = self._made, self._made + count
        if self._continuous:
            events = (http_chunk(self.answer.token(i, usage=True)) for i in range(start, start + count))
            return opening + b"".join(events)
        word, first = tokens.word, self.answer.start + start
        if count == 1:
            return opening + self._before + word(first) + self._after
        return opening + b"".join(self._before + word(i) + self._after for i in range(first, first + count))

    def _opening(self) -> bytes:
        role = self.answer.first(self._continuous)
        return http_chunk(role) if role else b""

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self.num_writes += 1
            self._transport.write(data)
