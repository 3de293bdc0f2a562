"""Sends a plan's requests at their times, under Locust, and records each. Imported only by the process that sends:
Locust patches the standard library.

Open loop: the times come from the trace, whatever the server does; each request has a greenlet of its own, up to a
bound. ``python -m loadgen.replay`` reads a plan as JSON from standard input and writes the report to standard output.
"""

from __future__ import annotations

import gc
import itertools
import logging
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import gevent
import gevent.event
import gevent.pool
import locust
import orjson
from locust.env import Environment

from loadgen.payload import Payload, Payloads
from loadgen.plan import Plan, PlanError
from loadgen.records import Record, RecordError, encode
from loadgen.reply import Answer
from loadgen.report import summarize
from loadgen.synth import SynthError
from loadgen.trace import TraceError, TraceRequest
from loadgen.wire import Client, UrlError

INPUT_ERRORS = (PlanError, RecordError, SynthError, TraceError, UrlError)
_LEAD_SECONDS = 0.2
"""Between the beginning of a run and its first request, to let the set-up settle."""
_PROGRESS_SECONDS = 1.0


class Replay:
    """One run: sends, records, and tells Locust."""

    def __init__(self, plan: Plan, environment: Environment, sink: BinaryIO | None = None) -> None:
        self.plan = plan
        self.records: list[Record] = []
        self.requests = plan.requests()
        self.num_sent = 0
        self._environment = environment
        self._client = Client(plan.url, plan.timeout)
        self._payloads = Payloads(plan, self.requests)
        self._sink = sink
        self._pool = gevent.pool.Pool(plan.concurrency or plan.max_inflight)
        self._stopped = gevent.event.Event()
        self._start = 0.0

    @property
    def num_inflight(self) -> int:
        return len(self._pool)

    def run(self) -> None:
        """Until every request has ended, or ``stop``."""
        gc.collect()
        gc.freeze()
        self._start = time.perf_counter() + _LEAD_SECONDS
        for number, request in enumerate(self.requests):
            payload = self._payloads.make(number, request)
            intended = self._wait(request)
            if self._stopped.is_set():
                break
            self.num_sent += 1
            self._pool.spawn(self._send, request, payload, intended)
        self._pool.join()
        self._client.close()
        if self._sink is not None:
            self._sink.flush()

    def stop(self) -> None:
        """Send no more; what is under way is recorded as interrupted."""
        self._stopped.set()
        self._pool.kill(block=False)

    def _wait(self, request: TraceRequest) -> float | None:
        """Wait for the request's time, which is returned; in a closed loop for a free place: its time is when it is
        sent, None."""
        if self.plan.concurrency is not None:
            self._pool.wait_available()
            return None
        intended = self._start + request.timestamp / 1000.0 / self.plan.speed
        while (delay := intended - time.perf_counter()) > 0 and not self._stopped.is_set():
            self._stopped.wait(delay)
        return intended

    def _send(self, request: TraceRequest, payload: Payload, intended: float | None) -> None:
        began = time.perf_counter()
        try:
            answer = self._client.post(payload.path, payload.headers, payload.body)
        except gevent.GreenletExit:
            answer = Answer(sent=began, end=time.perf_counter(), error="interrupted")
        record = self._record(request, payload, answer.sent if intended is None else intended, answer)
        self.records.append(record)
        if self._sink is not None:
            self._sink.write(encode(record))
        self._environment.events.request.fire(
            request_type="POST",
            name=payload.path,
            response_time=(record.end - record.intended) * 1000.0,
            response_length=record.num_output_tokens,
            exception=None if record.error is None else RequestFailedError(record.error),
            context={},
        )

    def _record(self, request: TraceRequest, payload: Payload, intended: float, answer: Answer) -> Record:
        usage = answer.usage
        details = usage.get("prompt_tokens_details")
        return Record(
            request_id=payload.request_id,
            intended=round(intended - self._start, 6),
            sent=round(answer.sent - self._start, 6),
            end=round(answer.end - self._start, 6),
            first_token=None if answer.first_token is None else round(answer.first_token - self._start, 6),
            input_length=request.input_length,
            output_length=request.output_length,
            max_tokens=payload.max_tokens,
            num_prompt_tokens=usage.get("prompt_tokens"),
            num_output_tokens=usage.get("completion_tokens") or answer.num_token_events,
            num_cached_tokens=details.get("cached_tokens") if isinstance(details, dict) else None,
            max_gap=round(answer.max_gap, 6),
            status=answer.status,
            error=answer.error,
            detail=answer.detail,
            worker=answer.worker,
        )


class RequestFailedError(Exception):
    """A failed request, by its kind: Locust groups failures by their text."""


class ReplayError(RuntimeError):
    """A run that broke off by an error of its own."""


class ReplayUser(locust.User):  # type: ignore[misc]
    """The one user of a run; Locust's number of users does not matter, as the trace says what is sent."""

    abstract = True
    fixed_count = 1
    make_replay: Callable[[Environment], Replay]

    @locust.task  # type: ignore[untyped-decorator]
    def replay(self) -> None:
        """Once: a failure ends the run, where Locust by itself would try again for ever."""
        try:
            type(self).make_replay(self.environment).run()
        except INPUT_ERRORS as error:
            logging.getLogger(__name__).error("%s", error)
            self.environment.process_exit_code = 2
        except Exception:
            logging.getLogger(__name__).exception("the replay failed")
            self.environment.process_exit_code = 1
        self.environment.runner.quit()


def run(plan: Plan, on_progress: Callable[[Replay], None] | None = None) -> list[Record]:
    """A whole run in this process.

    Raises:
        PlanError, SynthError, TraceError, UrlError: the plan cannot be carried out.
        RecordError: the records cannot be written.
        ReplayError: the run broke off.
    """
    raise_file_limit()
    with _opened(plan.records) as sink:
        environment = Environment()
        replay = Replay(plan, environment, sink)
        user = type("PlanUser", (ReplayUser,), {"abstract": False, "make_replay": staticmethod(lambda _: replay)})
        environment.user_classes = [user]
        runner = environment.create_local_runner()
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, replay.stop)
        if on_progress is not None:
            gevent.spawn(_tell, replay, on_progress, runner)
        runner.start(1, spawn_rate=1)
        runner.greenlet.join()
    if environment.process_exit_code:
        raise ReplayError("the replay failed; its error is above")
    return replay.records


def _tell(replay: Replay, on_progress: Callable[[Replay], None], runner: Any) -> None:
    for _ in itertools.count():
        gevent.sleep(_PROGRESS_SECONDS)
        if runner.greenlet.dead:
            return
        on_progress(replay)


@contextmanager
def _opened(path: str | None) -> Iterator[BinaryIO | None]:
    """The records' file; None without one."""
    if path is None:
        yield None
        return
    try:
        file = Path(path).open("wb")  # noqa: SIM115 - closed below, and only opening may fail as a user's mistake
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        yield file


def raise_file_limit() -> None:
    """A connection is a file, and the usual limit of 1,024 is less than a busy run needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print_progress(replay: Replay) -> None:
    failed = sum(record.error is not None for record in replay.records)
    total = len(replay.requests)
    text = f"{replay.num_sent} of {total} sent, {replay.num_inflight} in flight, {failed} failed"
    sys.stderr.write(f"\r{text:<70}")
    sys.stderr.flush()


def main() -> int:
    """The plan from standard input, the report to standard output; 2 when the plan cannot be carried out."""
    plan = Plan.from_dict(orjson.loads(sys.stdin.buffer.read()))
    shown = sys.stderr.isatty()
    try:
        records = run(plan, _print_progress if shown else None)
    except INPUT_ERRORS as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except ReplayError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if shown:
        sys.stderr.write("\r" + " " * 70 + "\r")
    sys.stdout.buffer.write(orjson.dumps(summarize(records).as_dict(), option=orjson.OPT_APPEND_NEWLINE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
