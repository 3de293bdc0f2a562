"""CPU of a request and of a token inside the gateway, without sockets: ``python -m tests.bench.request_path``.

The real data plane, dispatcher, guard, watchdog, metrics, decision records and event log, in their defaults, between
transports that swallow what is written. What is left out is uvloop and the kernel. Each figure is the least of several
rounds, so that it can be compared while other work goes on.

    --profile CASE   the same by function
    --without PART   leaves out metrics, decisions or events (may be repeated)
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvloop

from gateway.config import EventLogSection
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import PolicySetReplaced, WorkerJoined
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.http.client_connection import ClientConnection
from gateway.http.data_plane import DataPlane
from gateway.http.worker_connection import WorkerConnection
from gateway.runtime import EventSink, Runtime
from gateway.telemetry.decisions import Decisions
from gateway.telemetry.event_log import EventLog
from gateway.telemetry.metrics import GatewayMetrics
from gateway.telemetry.sinks import sink_of
from gateway.watchdog import Watchdog
from policies.loader import load_policies, parse_specs

ROUNDS, REQUESTS, TOKENS, WORKERS, CLIENTS = 60, 100, 100, 4, 32
PROFILED_SECONDS = 5.0
PARTS = ("metrics", "decisions", "events")
_SMALL = (
    b'{"model": "mock-model", "messages": [{"role": "system", "content": "You are helpful."}, '
    b'{"role": "user", "content": "Say hi."}], "max_tokens": 16, "temperature": 0.7}'
)
_BIG = (
    b'{"model": "mock-model", "messages": [{"role": "user", "content": "%b"}], "max_tokens": 16}'
    % ((b"the quick brown fox jumps over the lazy dog and \\u0022quotes\\u0022 it\\n " * 600)[: 32 * 1024])
)
_STREAM = _SMALL[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}'
_ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"mock-model","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"tok tok tok tok"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":12,"completion_tokens":16,"total_tokens":28}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER_BODY),
    _ANSWER_BODY,
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock-model",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":null}]}\n\n'
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ROLE = _chunk(_EVENT % b'{"role":"assistant","content":""}')
_TOKEN = _chunk(_EVENT % b'{"content":" tok"}')
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":%d,"total_tokens":0}}\n\n'
_DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class SilentTransport:
    """Takes everything and sends nothing."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return None


class RequestPath:
    """A gateway between silent transports: ``CLIENTS`` connections to it, and enough from it to each worker."""

    def __init__(self, folder: Path, stack: ExitStack, without: frozenset[str]) -> None:
        counts: dict[str, int] = {}
        watch = stack.enter_context(Watchdog())
        pools = [PoolConfig("default")]
        self.dispatcher = Dispatcher(pools, output_tokens=counts, watch=watch)
        self.runtime = Runtime(self.dispatcher)
        metrics = GatewayMetrics(lambda worker_id: "default", lambda model: "default")
        self.plane = DataPlane(self.runtime, None, None if "metrics" in without else metrics, counts)
        self.runtime.bind(cast(Any, _Executor(self.plane)))
        sinks: list[EventSink] = []
        if "events" not in without:
            log = EventLog(self.dispatcher, pools, 0, folder, EventLogSection())
            stack.callback(log.close)
            self.log_path = log.file.path
            sinks.append(log.event_handled)
        if "decisions" not in without:
            decisions = Decisions(self.dispatcher.pools, 10.0, 500)
            sinks.append(decisions.event_handled)
        of_commands = None if "metrics" in without else metrics.event_handled
        if sinks or of_commands:
            self.runtime.event_log = sink_of(sinks, of_commands)
        self._join()
        self.clients = [self._client() for _ in range(CLIENTS)]

    def _join(self) -> None:
        policies = PolicySet.of(load_policies(parse_specs("least_loaded"), 0, 1), 1)
        self.runtime.submit(PolicySetReplaced(time.monotonic(), "default", policies))
        for n in range(WORKERS):
            self.plane.add_worker(f"w{n}", f"http://127.0.0.1:{9000 + n}")
            self.runtime.submit(WorkerJoined(time.monotonic(), f"w{n}", "default", models=("mock-model",)))
        for pool in self.plane._pools.values():
            for _ in range(CLIENTS):
                connection = WorkerConnection(pool)
                connection.connection_made(cast(asyncio.Transport, SilentTransport()))
                pool.put(connection)

    def _client(self) -> ClientConnection:
        client = ClientConnection(self.plane)
        client.connection_made(cast(asyncio.Transport, SilentTransport()))
        return client

    def answered_by(self) -> WorkerConnection:
        """The connection that was just given a request."""
        exchange = next(reversed(self.plane._exchanges.values()))
        assert exchange.connection is not None
        return exchange.connection


class _Executor:
    def __init__(self, plane: DataPlane) -> None:
        self.dispatch, self.reject, self.cancel = plane.dispatch, plane.reject, plane.cancel
        self.set_replicas = self.policy_set_retired = None


def request(body: bytes) -> bytes:
    """As the usual clients send it."""
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\nUser-Agent: bench/1\r\n"
        b"Authorization: Bearer sk-0123456789abcdef\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    ) % (len(body), body)


def whole(path: RequestPath, data: bytes) -> Callable[[], int]:
    def run() -> int:
        for n in range(REQUESTS):
            path.clients[n % CLIENTS].data_received(data)
            path.answered_by().data_received(_ANSWER)
        return REQUESTS

    return run


def stream(path: RequestPath, tokens: int) -> Callable[[], int]:
    """Requests of ``tokens`` tokens, each read alone."""
    data, usage = request(_STREAM), _chunk(_USAGE % tokens)

    def run() -> int:
        num = max(1, REQUESTS // tokens)
        for n in range(num):
            path.clients[n % CLIENTS].data_received(data)
            worker = path.answered_by()
            worker.data_received(_HEAD + _ROLE)
            for _ in range(tokens):
                worker.data_received(_TOKEN)
            worker.data_received(usage)
            worker.data_received(_DONE)
        return num

    return run


def least(run: Callable[[], int]) -> float:
    """Microseconds a unit."""
    best = float("inf")
    for _ in range(ROUNDS):
        before = time.thread_time()
        units = run()
        best = min(best, (time.thread_time() - before) / units)
    return best * 1e6


def cases(path: RequestPath) -> dict[str, Callable[[], int]]:
    return {
        "small": whole(path, request(_SMALL)),
        "32KB": whole(path, request(_BIG)),
        "stream": stream(path, 2),
        "token": stream(path, TOKENS),
    }


async def measure(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = RequestPath(folder, stack, frozenset(options.without))
        runs = cases(path)
        if options.profile:
            profile(runs[options.profile], options.lines)
            return
        short = least(runs["stream"])
        print(f"a small request                 {least(runs['small']):7.1f} us")
        print(f"a request of 32 KB              {least(runs['32KB']):7.1f} us")
        print(f"a streamed request of 2 tokens  {short:7.1f} us")
        print(f"each token more                 {(least(runs['token']) - short) / (TOKENS - 2):7.2f} us")


def profile(run: Callable[[], int], lines: int) -> None:
    """Samples what runs by the CPU time used, which costs small functions no more than large ones."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()

    def sample(number: int, frame: FrameType | None) -> None:
        alone[_name(frame)] += 1
        seen = set()
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        within.update(seen)

    units = _sampled(run, sample)
    total = sum(alone.values())
    microseconds = PROFILED_SECONDS / units * 1e6
    print(f"{units} units, {microseconds:.1f} us each; of these, in each function alone and with all it calls:")
    for name, count in alone.most_common(lines):
        print(f"{count / total * microseconds:7.2f} {within[name] / total * microseconds:7.2f}  {name}")
    folders: Counter[str] = Counter()
    for name, count in alone.items():
        folders[name.partition(":")[0].rpartition("/")[0]] += count
    print("by folder: " + ", ".join(f"{name} {n / total * microseconds:.1f}" for name, n in folders.most_common(6)))


def _sampled(run: Callable[[], int], sample: Callable[[int, FrameType | None], None]) -> int:
    run()
    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)
    end, units = time.thread_time() + PROFILED_SECONDS, 0
    while time.thread_time() < end:
        units += run()
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)
    return units


def _name(frame: FrameType | None) -> str:
    if frame is None:
        return "?"
    file = Path(frame.f_code.co_filename)
    return f"{file.parent.name}/{file.name}:{frame.f_code.co_qualname}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=("small", "32KB", "stream", "token"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--without", choices=PARTS, action="append", default=[])
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
