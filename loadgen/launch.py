"""Starts the process that sends, and takes its report. Nothing here patches the standard library."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from loadgen.plan import Plan


class LaunchError(Exception):
    """The sending process ended without a report; what it said is on standard error already, if it said anything."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def send(plan: Plan) -> dict[str, Any]:
    """Carry out a plan in a process of its own: ``loadgen.report.Report`` as a dictionary.

    An interrupt or SIGTERM ends the run; what was under way is then reported as interrupted.

    Raises:
        LaunchError: the plan could not be carried out.
    """
    command = [sys.executable, "-m", "loadgen.replay"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, _forwarding(process):
        output, _ = process.communicate(orjson.dumps(plan.as_dict()))
    if process.returncode == 2:
        raise LaunchError("", 2)
    if process.returncode != 0:
        raise LaunchError(f"the sending process ended with status {process.returncode}", 1)
    return dict(orjson.loads(output))


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A terminal's interrupt reaches the process by itself; SIGTERM is passed on. Both leave this one to wait."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
