"""Starts the product's own commands as processes on loopback, and stops them for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class RunningGateway:
    """A gateway process, its two addresses and what it printed."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def wait_until_answers(url: str, process: subprocess.Popen[bytes], seconds: float = START_SECONDS) -> None:
    """Returns once ``url`` answers 200; raises when the process ends or time runs out first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with status {process.returncode} before {url} answered")
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=1) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise TimeoutError(f"{url} did not answer within {seconds} s")


def stop(process: subprocess.Popen[bytes], seconds: float = 10.0) -> int:
    """SIGTERM, then SIGKILL for the whole group; the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@contextlib.contextmanager
def running_gateway(folder: Path, *args: str, env: dict[str, str] | None = None) -> Iterator[RunningGateway]:
    """``gateway serve ARGS`` on free ports, ready when the block begins and gone when it ends."""
    port, admin_port = free_port(), free_port()
    log = folder / f"gateway-{port}.log"
    command = [sys.executable, "-m", "gateway.cli", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--admin-port", str(admin_port), *args]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, **(env or {})},
        )
    gateway = RunningGateway(process, port, admin_port, log)
    try:
        wait_until_answers(f"{gateway.admin_url}/health/ready", process)
        yield gateway
    except BaseException as failure:
        failure.add_note(gateway.output()[-4000:])
        raise
    finally:
        stop(process)
