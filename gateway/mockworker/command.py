"""``gateway mock-worker``: one or more mock vLLM servers in a process of their own.

When all of them listen, one JSON line on stdout tells where: ``{"urls": ["http://127.0.0.1:8101", …], …}``.
SIGTERM and SIGINT stop them, aborting what is in flight or, with ``--shutdown-timeout``, finishing it first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import uvloop

from gateway.mockworker.config import MockConfig
from gateway.mockworker.engine import EngineConfig
from gateway.mockworker.profile import ProfileError, WorkerProfile, load_profile, profile_names
from gateway.mockworker.records import RecordLog
from gateway.mockworker.server import MockWorker

DEFAULT_PROFILE = "a100-llama3-8b"
_POLL_SECONDS = 0.25
"""Between looks at the parent, and flushes of the records: what a kill loses at most."""

_ENGINE_HELP = {
    "num_gpu_blocks": "KV blocks",
    "block_size": "tokens in a KV block",
    "max_num_batched_tokens": "most tokens in a step",
    "max_num_seqs": "most requests in a step",
    "max_model_len": "most tokens of a request",
    "scheduling_policy": "fcfs or priority",
    "enable_prefix_caching": "share full blocks by content",
}
"""The profile's engine flags that the command line overrides, by vLLM's names."""

_EXAMPLE = "example: gateway mock-worker --port 8101 --count 4 --speed 10 --num-gpu-blocks 2000"


class MockWorkerError(Exception):
    """The workers could not be started; one line that says what to change."""


def run_mock_worker(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    count: int = 1,
    profile: str = DEFAULT_PROFILE,
    records: Path | None = None,
    exit_with_parent: bool = False,
    engine: Mapping[str, Any] | None = None,
    **config: Any,
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        port: of the first worker, the others follow it; 0 takes free ones.
        profile: a built-in name or a file.
        records: a file that gets a JSON line per request, appended.
        exit_with_parent: stop when the process that started this one has gone.
        engine: fields of ``EngineConfig`` that override the profile's.
        config: fields of ``MockConfig``.

    Raises:
        MockWorkerError: a value is wrong, the file cannot be written or a port is in use.
    """
    if count < 1:
        raise MockWorkerError(f"--count must be at least 1, not {count}")
    if not 0 <= port <= 65536 - count:
        raise MockWorkerError(f"--port must be 0 to {65536 - count} for {count} workers, not {port}")
    try:
        chosen = _overridden(load_profile(profile), engine or {})
        settings = MockConfig(**config)
    except (ProfileError, ValueError) as error:
        raise MockWorkerError(str(error)) from error
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(_record_log(records)) if records is not None else None
        workers = [MockWorker(chosen, _of_worker(settings, i), log) for i in range(count)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(workers, host, port, log, os.getppid() if exit_with_parent else None))


def _overridden(profile: WorkerProfile, flags: Mapping[str, Any]) -> WorkerProfile:
    return replace(profile, engine=replace(profile.engine, **flags))


def _of_worker(config: MockConfig, index: int) -> MockConfig:
    """Request ids made up by the workers of one process must differ."""
    return replace(config, instance=index)


def _record_log(path: Path) -> RecordLog:
    try:
        return RecordLog(path)
    except OSError as error:
        raise MockWorkerError(f"--records {path}: cannot be written: {error.strerror}") from error


async def _serve(
    workers: Sequence[MockWorker], host: str, port: int, log: RecordLog | None, parent: int | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await _start(workers, host, port)
        ready = {"urls": [w.url for w in workers], "model": workers[0].config.model, "pid": os.getpid()}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await _until_stopped(stop, log, parent)
        await asyncio.gather(*(worker.drain() for worker in workers))
    finally:
        await asyncio.gather(*(worker.close() for worker in workers))


async def _start(workers: Sequence[MockWorker], host: str, port: int) -> None:
    for index, worker in enumerate(workers):
        wanted = port + index if port else 0
        try:
            await worker.start(host, wanted)
        except OSError as error:
            raise MockWorkerError(_why_not(error, host, wanted)) from error


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another --port, or 0 for a free one"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


async def _until_stopped(stop: asyncio.Event, log: RecordLog | None, parent: int | None) -> None:
    while not stop.is_set() and parent in (None, os.getppid()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL_SECONDS)
        if log is not None:
            log.flush()


def parser(prog: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=prog, description=__doc__.partition("\n")[0], epilog=_EXAMPLE)
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    made.add_argument("--port", type=int, default=8101, help="first port; 0: free ones (default %(default)s)")
    made.add_argument("--count", type=int, default=1, help="workers, on ports that follow (default %(default)s)")
    names = ", ".join(profile_names())
    made.add_argument("--profile", default=DEFAULT_PROFILE, help=f"{names} or a file (default %(default)s)")
    made.add_argument("--records", type=Path, metavar="FILE", help="append a JSON line per request")
    made.add_argument("--exit-with-parent", action="store_true", help="stop when the starting process has gone")
    _add_fields(made, MockConfig, {name.name: name.default for name in fields(MockConfig) if name.name != "instance"})
    group = made.add_argument_group("engine, instead of the profile's values")
    _add_fields(group, EngineConfig, dict.fromkeys(_ENGINE_HELP), _ENGINE_HELP)
    return made


def _add_fields(
    target: argparse._ActionsContainer,
    owner: type,
    defaults: Mapping[str, Any],
    told: Mapping[str, str] | None = None,
) -> None:
    """An option for each field, so that a field and its option cannot differ."""
    kinds = get_type_hints(owner)
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        text = (told or _CONFIG_HELP)[name] + ("" if default is None else " (default %(default)s)")
        if kinds[name] is bool:
            target.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            kind = kinds[name] if kinds[name] in (int, float) else str
            target.add_argument(flag, type=kind, default=default, help=text)


_CONFIG_HELP = {
    "model": "name of the one model served",
    "speed": "engine seconds in a real second",
    "seed": "of output lengths and made-up request ids",
    "max_num_queued_reqs": "waiting requests at which new ones get 503; 0: unbounded",
    "enable_prompt_tokens_details": "tell cached tokens in usage",
    "enable_request_id_headers": "answer with X-Request-Id",
    "sse_keep_alive_interval": "seconds between comments on a silent stream; 0: none",
    "shutdown_timeout": "seconds to finish requests after SIGTERM; 0 aborts them",
    "output_median": "tokens, median of the drawn output lengths",
    "output_sigma": "of the log-normal output lengths",
}


def main(argv: Sequence[str] | None = None, prog: str = "gateway mock-worker") -> int:
    """The command; its exit status. Wrong usage is 2, what could not be started 1."""
    given = vars(parser(prog).parse_args(argv))
    engine = {name: given.pop(name) for name in _ENGINE_HELP}
    try:
        run_mock_worker(engine={name: value for name, value in engine.items() if value is not None}, **given)
    except MockWorkerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
