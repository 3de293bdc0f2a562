"""The commands of this package as processes on this machine: started, awaited and stopped for certain."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

START_SECONDS = 60.0
_READY = re.compile(rb"^ranvier_worker_ready\{[^}]*\} 1", re.MULTILINE)
STOP_SECONDS = 15.0


class ProcessError(Exception):
    """A command failed or did not become ready; one line."""


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """Where a gateway listens."""

    url: str
    admin_url: str


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(module: str, *arguments: str, stdout: int | IO[bytes], stderr: int | None = None) -> subprocess.Popen[bytes]:
    """A command of ours, as ``python -m`` so that it is this environment's."""
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=stdout, stderr=stderr)


def finish(process: subprocess.Popen[bytes], what: str) -> bytes:
    """Its standard output, when it has ended well.

    Raises:
        ProcessError: it ended with another status than 0.
    """
    output, _ = process.communicate()
    if process.returncode:
        raise ProcessError(f"{what} ended with status {process.returncode}")
    return output


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


Ports = tuple[int, int]
"""Of a gateway: for requests, and for its admin."""
Launch = Callable[[Sequence[str], Ports, IO[bytes]], contextlib.AbstractContextManager[subprocess.Popen[bytes]]]
"""Starts ``gateway ARGUMENTS``, which listens on the ports, and ends it for certain."""


@contextlib.contextmanager
def launched(arguments: Sequence[str], ports: Ports, out: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """As any other command of ours."""
    process = start("gateway.cli", *arguments, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        stop(process)


@contextlib.contextmanager
def running_gateway(
    arguments: Sequence[str], log: Path, num_workers: int = 1, launch: Launch = launched
) -> Iterator[RunningGateway]:
    """``gateway serve ARGUMENTS`` on free loopback ports, ready for requests; what it prints goes to ``log``.

    Args:
        num_workers: it is ready when so many workers are.
        launch: how it is started.

    Raises:
        ProcessError: it did not become ready.
    """
    port, admin_port = free_port(), free_port()
    gateway = RunningGateway(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")
    ports = ("--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin_port))
    with log.open("wb") as out, launch(["serve", *ports, *arguments], (port, admin_port), out) as process:
        _wait_until_ready(gateway, process, log, num_workers)
        yield gateway


def _wait_until_ready(gateway: RunningGateway, process: subprocess.Popen[bytes], log: Path, num_workers: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _num_ready_workers(gateway) >= num_workers:
            return
        time.sleep(0.1)
    raise ProcessError(f"the gateway did not become ready; see {log}")


def _num_ready_workers(gateway: RunningGateway) -> int:
    """By its metrics; 0 while it does not answer."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=1) as page:  # noqa: S310
        return len(_READY.findall(page.read()))
    return 0


@contextlib.contextmanager
def running_mock_workers(arguments: Sequence[str]) -> Iterator[list[str]]:
    """``gateway mock-worker ARGUMENTS`` on free loopback ports; the URLs of its workers.

    Raises:
        ProcessError: they did not start.
    """
    words = ("mock-worker", "--host", "127.0.0.1", "--port", "0", "--exit-with-parent", *arguments)
    process = start("gateway.cli", *words, stdout=subprocess.PIPE)
    try:
        line = process.stdout.readline() if process.stdout is not None else b""
        if not line:
            raise ProcessError(f"the mock workers ended with status {process.wait()}")
        told: dict[str, Any] = json.loads(line)
        yield list(told["urls"])
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()
