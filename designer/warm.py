"""The warm parent: a small process that has imported what a candidate needs, and forks one child for each evaluation.

It runs no candidate itself and knows no secret: a job comes in over a socket, a child does it behind the fence of
``designer.confinement``, and its answer, or the reason why there is none, goes back. A child that runs past its
deadline is killed with its whole process group. No child is used twice.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from designer.confinement import Limits, adopt_orphans, bury_orphans, confine
from designer.wire import WireError, receive, send

_MAX_RESULT = 16 << 20
_SPENT = 0.5
"""Share of its processor time, as counted by ticks, from which on a killed child is taken to have used it up."""
Job = Mapping[str, Any]
Fence = Callable[[], tuple[str, ...]]
"""A job calls it, once, when its trusted preparation is over and before any code of a candidate is run."""
Work = Callable[[Job, Fence, list[int]], Any]
"""Does a job and gives its JSON result; the list holds the file descriptors that came with it."""


def main(fd: int, role: str) -> None:
    """Serve jobs until the other side closes; ``role`` is a module with ``prepare()`` and ``WORK``."""
    module = importlib.import_module(role)
    module.prepare()
    gc.collect()
    gc.freeze()
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=fd) as sock:
        send(sock, "ready")
        while True:
            try:
                job, fds = receive(sock, max_fds=2)
            except WireError:
                return
            answer = _in_child(module.WORK[job["work"]], job, fds, sock)
            try:
                send(sock, answer)
            except WireError:
                return  # nobody is there to hear it


def _in_child(work: Work, job: Job, fds: list[int], sock: socket.socket) -> dict[str, Any]:
    """Fork, wait for the answer or the deadline, bury the child."""
    started = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(work, job, fds, writing)
    with contextlib.suppress(OSError):  # the child does the same, and may be over by now
        os.setpgid(pid, pid)
    for fd in (writing, *fds):
        os.close(fd)
    try:
        data, ended = _collect(reading, sock, started + float(job["deadline_seconds"]))
    finally:
        os.close(reading)
        _kill_group(pid)
        _, status, usage = os.wait4(pid, 0)
        bury_orphans()
    return {
        **_judge(data, ended, status, usage.ru_utime + usage.ru_stime, job),
        "wall_seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def _collect(reading: int, sock: socket.socket, deadline: float) -> tuple[bytes, bool]:
    """What the child wrote, and whether it ended by itself. If the other side goes away, so does the child."""
    chunks: list[bytes] = []
    size = 0
    while size <= _MAX_RESULT:
        left = deadline - time.monotonic()
        watched: list[Any] = [reading, sock]
        ready = select.select(watched, [], [], left)[0] if left > 0 else []
        if not ready or sock in ready:
            return b"", False
        chunk = os.read(reading, 1 << 20)
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
        size += len(chunk)
    return b"", True


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def _judge(data: bytes, ended: bool, status: int, cpu: float, job: Job) -> dict[str, Any]:
    if not ended:
        return {"error": f"ran past its deadline of {job['deadline_seconds']:g} s and was killed"}
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return {"error": _death(status, spent=cpu >= _SPENT * job["limits"]["cpu_seconds"])}
    if isinstance(answer, dict) and answer.keys() <= {"result", "error", "layers"}:
        return answer
    return {"error": "gave a result of another form"}


def _death(status: int, *, spent: bool) -> str:
    """``spent``: all its processor time, so that who does not hear SIGXCPU was killed a second later."""
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if killed_by == signal.SIGXCPU or (killed_by == signal.SIGKILL and spent):
        return "used up its processor time"
    if killed_by not in (None, signal.SIGKILL):
        return f"was killed by {signal.Signals(killed_by).name}"
    return "ended without a result"


def _child(work: Work, job: Job, fds: list[int], writing: int) -> None:
    """Never returns."""
    try:
        os.setpgid(0, 0)
        layers: list[str] = []

        def fence() -> tuple[str, ...]:
            layers.extend(confine(Limits(**job["limits"]), [writing, *fds]))
            return tuple(layers)

        try:
            answer: dict[str, Any] = {"result": work(job, fence, fds), "layers": layers}
        except MemoryError:
            answer = {"error": "ran out of memory", "layers": layers}
        except Exception as error:  # noqa: BLE001 - the boundary to code that is not ours
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000], "layers": layers}
        _write_all(writing, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
