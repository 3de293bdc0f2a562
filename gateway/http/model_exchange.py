"""A request that a model answers: the dispatcher decides where it goes, and hears how each attempt ends.

An answer is held back while it may still be an error worth another attempt: a 5xx or 429 until it is whole, a stream
until its first event. A stream's first content token (not the role chunk, not a ``: keep-alive``) is reported once;
tokens are counted event by event as they pass, and corrected by the answer's ``usage`` at its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.events import ClientLeft, FirstTokenSeen, Outcome, RequestEnded
from gateway.http.answers import error_body
from gateway.http.exchange import Exchange
from gateway.http.incoming import IncomingRequest
from gateway.http.metrics import Ending
from gateway.http.sse import NO_USAGE, StreamEvent, event_end, event_mark, read_events, read_usage
from gateway.http.worker_connection import BreakReason, WorkerConnection
from gateway.http.worker_pool import WorkerPool
from gateway.openai_api import MODEL_PATHS

if TYPE_CHECKING:
    from gateway.http.client_connection import ClientConnection
    from gateway.http.data_plane import DataPlane

KEEP_ALIVE_AFTER_SECONDS = 10.0
"""A worker's ``: keep-alive`` comment is passed on at once from this long after dispatch, so that the client's own
timers see it; until then it is held with the head, because the answer may still be an error worth another attempt."""


class ModelExchange(Exchange):
    __slots__ = (
        "_counts",
        "_event_end",
        "_failed_in_stream",
        "_held",
        "_is_plain",
        "_mark",
        "_read_from",
        "_tail",
        "_usage",
        "arrived_at",
        "dispatched_at",
        "first_token_at",
        "last_error",
        "model",
        "num_output_tokens",
        "tenant",
        "worker_id",
    )

    def __init__(
        self,
        plane: DataPlane,
        client: ClientConnection,
        incoming: IncomingRequest,
        request_id: str,
        model: str,
        tenant: str,
        arrived_at: float,
    ) -> None:
        super().__init__(plane, client, incoming, request_id)
        self._counts = plane.output_tokens
        self.model = model
        self.tenant = tenant
        self.arrived_at = arrived_at
        self.dispatched_at = 0.0
        self.worker_id = ""
        self.first_token_at: float | None = None
        self.num_output_tokens = 0
        """Of the current attempt, as far as it is counted into the worker's."""
        self.last_error: tuple[int, bytes] | None = None
        """Status and body of the last answer that was not passed on."""
        self._held = b""
        """While nothing is released: all that came. In a stream before its first token: what is not yet read."""
        self._read_from = 0
        self._tail = b""
        """Of a stream: the beginning of an event whose end has not come."""
        self._event_end = b"\n\n\r\n"
        self._is_plain = False
        """Chunked, an event or more to a chunk, passed on as it comes."""
        self._mark = b"\ndata: {"
        self._usage = b""
        """Bytes that hold the last ``usage`` seen."""
        self._failed_in_stream = False

    # --- attempts

    def dispatch(self, pool: WorkerPool, now: float) -> None:
        self.worker_id = pool.worker_id
        self.dispatched_at = now
        self.num_output_tokens = 0
        self._held = self._tail = self._usage = b""
        self._read_from = 0
        self.is_stream = False
        self.send(pool)

    def attempt_failed(self, reason: BreakReason) -> None:
        if reason != "timeout":
            self.last_error = None
        elif self.plane.settings.retry_timeouts:
            self.last_error = 504, error_body(504, _TOO_LATE)
        else:
            self._timed_out()
            return
        self.retry("failed", reason)

    def _timed_out(self) -> None:
        """It may have been worked on all the while: another worker's time is not spent on it as well."""
        self.drop_attempt()
        now = self.plane.forget(self)
        self.plane.runtime.submit(RequestEnded(now, self.request_id, "failed"))
        self.refuse(504, _TOO_LATE)
        self._report("failed", now, None)

    def retry(self, outcome: Outcome, reason: str) -> None:
        """Nothing has reached the client: the dispatcher may try another worker."""
        self.plane.metrics.request_retried(self.worker_id, reason)
        self.drop_attempt()
        self._held = b""
        runtime = self.plane.runtime
        runtime.submit(RequestEnded(runtime.clock.time(), self.request_id, outcome, 0, None, None, True))

    # --- the answer

    def head(self, connection: WorkerConnection, data: bytes) -> None:
        status = connection.status
        if status >= 500 or status == 429:
            connection.receive = self._hold_error
            self._hold_error(data)
        elif connection.content_type.startswith(b"text/event-stream"):
            self.is_stream = True
            connection.receive = self._hold_stream
            self._hold_stream(data)
        else:
            connection.receive = self._receive_whole
            if b'"usage":' in data:
                self._usage = data
            self.release(data)

    def _receive_whole(self, data: bytes) -> None:
        if self._usage or b'"usage":' in data:
            self._usage = (self._usage + data)[-_USAGE_BYTES:]
        client = self.client
        if client is not None:
            client.write(data)

    def _hold_error(self, data: bytes) -> None:
        self._held += data
        connection = self.connection
        if connection is not None and len(self._held) > self.plane.settings.max_held_response_bytes:
            self._judge_error(connection.status, b"")

    def _judge_error(self, status: int, body: bytes) -> None:
        self.last_error = (status, body) if body[:1] == b"{" else None
        if status == 500 and _SHUTTING_DOWN in body:
            self.retry("rejected", "shutting_down")
            return
        self.retry("rejected" if status in (429, 503) else "failed", f"status_{status}")

    # --- a stream: held, then released until its first token, then passed on

    def _hold_stream(self, data: bytes) -> None:
        held = self._held + data if self._held else data
        events, at = read_events(held, self._read_from)
        if events:
            if self._is_worth_another_attempt(events[0]):
                return
        elif not self._waited_long_enough(held):
            self._held, self._read_from = held, at
            return
        self._release_stream(held, events, at)

    def _is_worth_another_attempt(self, first: StreamEvent) -> bool:
        status = first.status
        if status < 500 and status != 429:
            return False
        self.last_error = status, first.payload
        if status == 500 and _SHUTTING_DOWN in first.payload:
            self.retry("rejected", "shutting_down")
            return True
        self.retry("rejected" if status in (429, 503) else "failed", f"first_event_{status}")
        return True

    def _waited_long_enough(self, held: bytes) -> bool:
        if len(held) > self.plane.settings.max_held_response_bytes:
            return True
        return b"\n\n" in held and self.plane.clock.now - self.dispatched_at > KEEP_ALIVE_AFTER_SECONDS

    def _release_stream(self, held: bytes, events: list[StreamEvent], at: int) -> None:
        connection = self.connection
        if connection is None:
            return
        self._held = b""
        connection.receive = self._seek_first_token
        if events:
            chunked = connection.framing == "chunked" and not self.decoded
            self._event_end = event_end(held, events[0], chunked=chunked)
            self._is_plain = chunked and self._event_end != b""
        whole = self._whole_events(held, connection)
        self.release(whole)
        if len(whole) < len(held):
            events, at = read_events(whole)
        self._note_events(whole, events, at)

    def _seek_first_token(self, data: bytes) -> None:
        data = self._send_events(data)
        unread = self._held + data
        events, at = read_events(unread)
        self._note_events(unread, events, at)

    def _note_events(self, data: bytes, events: list[StreamEvent], at: int) -> None:
        """Looks for the first token; what follows it in ``data`` is counted too."""
        for event in events:
            if event.kind == "token":
                self._first_token(data, event)
                return
            if event.kind == "error":
                self._failed_in_stream = True
        if b'"usage":' in data:
            self._usage = data
        self._held = data[at:] if len(data) - at <= self.plane.settings.max_held_response_bytes else b""

    def _first_token(self, data: bytes, event: StreamEvent) -> None:
        runtime = self.plane.runtime
        self.first_token_at = runtime.clock.time()
        if self.connection is not None:
            self.connection.receive = self._receive_stream
        self._held = b""
        self._mark = event_mark(data, event)
        self._count(data[event.start :])
        runtime.submit(FirstTokenSeen(self.first_token_at, self.request_id))

    def _receive_stream(self, data: bytes) -> None:
        """Every token passes here: the usual read is one or more whole events."""
        client = self.client
        if self._tail or not self._is_plain or not data.endswith(self._event_end) or client is None:
            self._count(self._send_events(data))
            return
        client.write(data)
        count = data.count(self._mark)
        self.num_output_tokens += count
        self._counts[self.worker_id] += count
        if b'"usage":' in data:
            self._usage = data
        if b'data: {"e' in data:
            self._failed_in_stream = self._failed_in_stream or _ERROR in data

    def _count(self, data: bytes) -> None:
        mark = self._mark
        count = data.count(mark) + data.startswith(mark[1:])
        if count:
            self.num_output_tokens += count
            self._counts[self.worker_id] += count
        if b'"usage":' in data:
            self._usage = data
        if _ERROR in data:
            self._failed_in_stream = True

    def _send_events(self, data: bytes) -> bytes:
        """Sends whole events; returns what was sent."""
        client, connection = self.client, self.connection
        if client is None or connection is None:
            return b""
        if data := self._whole_events(data, connection):
            client.write(data)
        return data

    def _whole_events(self, data: bytes, connection: WorkerConnection) -> bytes:
        """What may be sent: the beginning of an event waits for its end, so that a stream which breaks off can still be
        ended properly."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if (data.endswith(self._event_end) and self._event_end) or connection.complete:
            self.at_boundary = True
            return data
        return self._cut(data) if data else data

    def _cut(self, data: bytes) -> bytes:
        mark = self._event_end
        at = data.rfind(mark) + len(mark) if mark else 0
        if not mark or (at < len(mark) and len(data) > self.plane.settings.max_held_response_bytes):
            self.at_boundary = self._is_plain = (
                False  # a worker that writes its events otherwise: passed on as they come
            )
            return data
        if at < len(mark):
            at = 0
        else:
            self.at_boundary = True
        self._tail = data[at:]
        return data[:at]

    # --- the end

    def end(self) -> None:
        connection, self.connection = self.connection, None
        if self.client is None or connection is None:
            return
        if self.released:
            self._over("failed" if self._failed_in_stream else "completed", self._usage)
        elif connection.status >= 500 or connection.status == 429:
            self._judge_error(connection.status, _body_of(self._held, connection, self.decoded))
        else:
            self.connection = connection  # a stream that ended without an event
            self.release(self._held)
            self.connection = None
            self._over("completed", b"")

    def ended_broken(self, reason: BreakReason) -> None:
        self._over("failed", self._usage)

    def _over(self, outcome: Outcome, usage_bytes: bytes) -> None:
        """The client has what it gets; tell dispatcher and metrics."""
        usage = read_usage(usage_bytes) if usage_bytes else NO_USAGE
        plane = self.plane
        if usage.num_output_tokens is not None:
            self._counts[self.worker_id] += usage.num_output_tokens - self.num_output_tokens
            self.num_output_tokens = usage.num_output_tokens
        now = plane.forget(self)
        self._report(outcome, now, usage.num_prompt_tokens)
        plane.runtime.submit(
            RequestEnded(
                now,
                self.request_id,
                outcome,
                self.num_output_tokens,
                usage.num_prompt_tokens,
                usage.num_cached_tokens,
                False,
            )
        )
        self.leave_client()

    def rejected(self, status: int, body: bytes, headers: bytes) -> None:
        """The dispatcher gave the request up."""
        now = self.plane.forget(self)
        self.answer(status, body, headers)
        self._report("failed" if status == 502 else "rejected", now, None)

    def abandon(self, ending: Ending) -> None:
        self.client = None
        plane = self.plane
        plane.body_released(self.incoming)
        now = plane.clock.time()
        self._report(ending, now, None)
        plane.runtime.submit(ClientLeft(now, self.request_id, self.num_output_tokens))
        self.drop_attempt()  # the dispatcher's Cancel has done so already, unless it comes later
        plane.forget(self)

    def _report(self, ending: Ending, now: float, num_prompt_tokens: int | None) -> None:
        first = self.first_token_at
        arrived = self.arrived_at
        self.plane.metrics.request_finished(
            MODEL_PATHS[self.incoming.path],
            self.model,
            self.tenant,
            self.worker_id,
            self.status,
            ending,
            (self.dispatched_at or now) - arrived,
            None if first is None else first - arrived,
            now - arrived,
            num_prompt_tokens,
            self.num_output_tokens,
        )


_SHUTTING_DOWN = b"cannot schedule new futures after shutdown"
"""What a vLLM server says that drains before its end, while its /health is still 200: it has not failed, and takes no
more."""
_TOO_LATE = "The worker did not answer in time."
_ERROR = b'data: {"error"'
_USAGE_BYTES = 65_536
"""Of a long answer's end, kept to find ``usage`` in."""


def _body_of(held: bytes, connection: WorkerConnection, decoded: bool) -> bytes:
    """The JSON of an error answer; chunk sizes stand around it if it came chunked."""
    if connection.framing != "chunked" or decoded:
        return held
    start, end = held.find(b"{"), held.rfind(b"}")
    return held[start : end + 1] if 0 <= start < end else b""
