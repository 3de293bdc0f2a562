"""Replicas as real processes: mock workers, started, joined, drained, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gateway.core.commands import SetReplicas
from tests.support.running_shell import Shell, running_shell

COMMAND = [sys.executable, "-m", "gateway.mockworker", "--port", "{port}", "--speed", "50"]


def tables(command: list[str]) -> dict[str, object]:
    return {"pool": [{"name": "p", "replicas": {"mock": {"min": 0, "max": 3, "command": command}}}]}


def want(shell: Shell, number: int) -> None:
    shell.gateway.replicas.set_replicas(SetReplicas("p", "mock", number))


async def test_replicas_come_serve_and_go() -> None:
    async with running_shell(tables(COMMAND), num_ready=0) as shell:
        want(shell, 2)
        await shell.until(lambda: shell.gateway.view.num_ready() == 2)
        assert {w["variant"] for w in shell.gateway.view.workers()} == {"mock"}
        assert (await shell.complete()).status_code == 200
        want(shell, 1)
        await shell.until(lambda: len(shell.gateway.membership.members) == 1)
        survivor = shell.gateway.replicas._replicas["p", "mock"][0].process
        os.kill(survivor.pid, signal.SIGKILL)  # by itself, as far as the gateway knows
        await shell.until(lambda: not shell.gateway.membership.members)
    assert survivor.returncode == -signal.SIGKILL


async def test_all_are_stopped_at_the_end() -> None:
    async with running_shell(tables(COMMAND), num_ready=0) as shell:
        want(shell, 1)
        await shell.until(lambda: shell.gateway.view.num_ready() == 1)
        (replica,) = shell.gateway.replicas._replicas["p", "mock"]
    assert replica.process.returncode is not None


async def test_a_command_that_fails_is_told_and_taken_out() -> None:
    async with running_shell(tables(["/nowhere/vllm", "{port}"]), num_ready=0) as shell:
        want(shell, 1)
        await shell.until(lambda: shell.gateway.membership.members)
        await shell.until(lambda: not shell.gateway.membership.members)


async def test_a_variant_without_a_command_is_only_logged() -> None:
    async with running_shell(tables([]), num_ready=0) as shell:
        want(shell, 1)
        assert not shell.gateway.membership.members


def test_the_leash_ends_the_command_with_its_parent(tmp_path: Path) -> None:
    """A parent that starts a sleeper on the leash, says its id and is killed."""
    script = (
        "import os, subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'gateway.replicas.leash', str(os.getpid()), 'sleep', '600'])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    sleeper = int(parent.stdout.readline())
    status = Path(f"/proc/{sleeper}/cmdline")
    wait_for(lambda: status.read_bytes().startswith(b"sleep"))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not is_running(sleeper))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 15
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
