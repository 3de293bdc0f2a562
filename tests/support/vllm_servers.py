"""Two real vLLM servers for the tests that want them: started here, or somebody else's that are named.

``RANVIER_VLLM_SERVE`` is a command (assignments before it as in a shell) that serves in the foreground, with
``{port}`` where the port goes; options that tests need are added at its end. ``RANVIER_VLLM_URL`` names one or two
running servers instead, comma-separated: what would end a server or needs options of its own is then skipped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import free_port, stop, wait_until_answers

QUEUE_LIMIT = 4
OPTIONS = f"--max-num-queued-reqs {QUEUE_LIMIT} --shutdown-timeout 30"
START_SECONDS = 300.0
ROOT = Path(__file__).parent.parent.parent


@dataclass
class VllmServer:
    """``process`` is None for one that is somebody else's."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def worker_id(self) -> str:
        return self.url.rpartition("/")[2]

    def metric(self, name: str) -> float:
        """The sum over the metric's samples."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def engines(self) -> list[int]:
        """Process ids of its engine core and workers: all of its group but the first."""
        assert self.process is not None
        group = self.process.pid
        return [pid for pid in _group(group) if pid != group and b"VLLM::" in _title(pid)]


def missing() -> str:
    """Why there is no server; empty where there is one."""
    if os.environ.get("RANVIER_VLLM_SERVE") or os.environ.get("RANVIER_VLLM_URL"):
        return ""
    return "neither RANVIER_VLLM_SERVE (a command with {port}) nor RANVIER_VLLM_URL says where a vLLM server is"


@contextlib.contextmanager
def vllm_servers(folder: Path, number: int = 2, options: str = OPTIONS) -> Iterator[list[VllmServer]]:
    """``number`` servers, ready; those started here have ``options`` and are gone when the block ends."""
    command = os.environ.get("RANVIER_VLLM_SERVE")
    if not command:
        urls = os.environ["RANVIER_VLLM_URL"].split(",")
        yield [VllmServer(url.strip().rstrip("/")) for url in urls if url.strip()]
        return
    servers = [_start(command, free_port(), folder, options) for _ in range(number)]
    try:
        for server in servers:
            assert server.process is not None
            wait_until_answers(f"{server.url}/health", server.process, START_SECONDS)
            _be_gentle(server)
        yield servers
    finally:
        for server in servers:
            if server.process is not None:
                stop(server.process, 5.0)


def _start(command: str, port: int, folder: Path, options: str) -> VllmServer:
    line = f"exec env {command.replace('{port}', str(port))} {options}"  # its process is the one that gets signals
    with (folder / f"vllm-{port}.log").open("wb") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for a scheduler of ours
        process = subprocess.Popen(["sh", "-c", line], stdout=log, stderr=log, start_new_session=True, env=environment)
    return VllmServer(f"http://127.0.0.1:{port}", process)


def _be_gentle(server: VllmServer) -> None:
    """On few cores a busy engine starves its own API server: the engine steps back."""
    for pid in server.engines():
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, int(task.name), 15)


def _group(group: int) -> Sequence[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == group:
                found.append(int(entry.name))
    return found


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_engines(server: VllmServer) -> None:
    for pid in server.engines():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def eventually(condition: object, seconds: float = 20.0) -> bool:
    """Whether ``condition()`` holds within ``seconds``."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
