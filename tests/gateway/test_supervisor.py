"""The supervisor with real processes: what clients see of a gateway that dies, stands still or is replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.supervisor import MAX_DELAY_SECONDS, delay
from tests.gateway.test_policy_files import GOOD
from tests.support.processes import RunningGateway, free_port, running_gateway

CONFIG = """
[policy]
stuck_seconds = 4.0
[mock]
count = 1
speed = 20.0
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("supervised")
    (folder / "gateway.toml").write_text(CONFIG)
    (folder / "mine.py").write_text(GOOD)
    with running_gateway(folder, "--supervise", "--config", "gateway.toml") as running:
        yield running


def pids(gateway: RunningGateway) -> list[int]:
    return [int(pid) for pid in re.findall(r"gateway process started pid=(\d+)", gateway.output())]


def ask(gateway: RunningGateway, max_tokens: int = 3) -> dict[str, object]:
    body = json.dumps({"model": "mock", "prompt": "x", "max_tokens": max_tokens}).encode()
    headers = {"content-type": "application/json", "x-ranvier-output-tokens": str(max_tokens)}
    request = urllib.request.Request(f"{gateway.url}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        value: dict[str, object] = json.loads(answer.read())
        return value


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def asking(gateway: RunningGateway) -> Iterator[list[object]]:
    """Asks on a new connection each time for as long as the block runs; what came of it."""
    results: list[object] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            try:
                results.append("usage" in ask(gateway))
            except OSError as error:
                results.append(error)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        yield results
    finally:
        done.set()
        thread.join()


def admin(gateway: RunningGateway, path: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(gateway.admin_url + path, data, headers), timeout=60) as answer:
        return str(answer.read().decode())


def test_a_process_that_dies_is_started_again_and_nobody_is_refused(gateway: RunningGateway) -> None:
    before = pids(gateway)
    os.kill(before[-1], signal.SIGKILL)
    assert "usage" in ask(gateway)  # it waited in the kernel's queue
    assert len(pids(gateway)) == len(before) + 1
    assert 'ranvier_restarts_total{reason="crashed"} 1.0' in admin(gateway, "/metrics")
    assert "the gateway process ended; it is started again reason=crashed" in gateway.output()


def test_the_next_process_is_ready_before_the_one_before_it_drains(gateway: RunningGateway) -> None:
    """And it runs the policies that were loaded, not those that are configured."""
    admin(gateway, "/admin/policies/default/load", {"specs": str(gateway.log.parent / "mine.py")})
    before = pids(gateway)
    long: list[dict[str, object]] = []
    stream = threading.Thread(target=lambda: long.append(ask(gateway, 1_500)))
    stream.start()
    with asking(gateway) as results:
        until(lambda: len(results) > 3)
        gateway.process.send_signal(signal.SIGUSR2)
        until(lambda: f"gateway process ended pid={before[-1]} status=0" in gateway.output())
        number = len(results)
        until(lambda: len(results) > number + 3)
    stream.join()
    assert set(results) == {True}
    assert long[0]["usage"]["completion_tokens"] == 1_500  # type: ignore[index]
    assert len(pids(gateway)) == len(before) + 1
    (pool,) = json.loads(admin(gateway, "/admin/policies"))["pools"]
    assert pool["current"]["origin"] == "restored"
    assert pool["current"]["slots"]["routing"]["policy"] == "mine"


def test_one_that_stands_still_is_killed_and_its_policies_are_not_loaded_again(gateway: RunningGateway) -> None:
    before = pids(gateway)
    os.kill(before[-1], signal.SIGSTOP)  # as in a loop inside C, and worse: not even its last resort runs
    assert "usage" in ask(gateway)
    assert "the gateway process stands still; killing it" in gateway.output()
    assert 'ranvier_restarts_total{reason="stuck"} 1.0' in admin(gateway, "/metrics")
    (pool,) = json.loads(admin(gateway, "/admin/policies"))["pools"]
    assert pool["current"]["slots"]["routing"]["policy"] == "routing/least_loaded"


def test_one_that_stands_still_while_the_next_one_starts_is_killed_then(gateway: RunningGateway) -> None:
    ask(gateway)
    before, killed = pids(gateway), gateway.output().count("stands still; killing it")
    gateway.process.send_signal(signal.SIGUSR2)
    until(lambda: len(pids(gateway)) > len(before))
    following = pids(gateway)[-1]
    os.kill(following, signal.SIGSTOP)  # so that it is not ready yet
    try:
        os.kill(before[-1], signal.SIGSTOP)
        until(lambda: gateway.output().count("stands still; killing it") > killed)
    finally:
        os.kill(following, signal.SIGCONT)
    assert "usage" in ask(gateway)
    assert pids(gateway)[-1] == following


def is_refused(url: str) -> bool:
    address = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((str(address.hostname), int(address.port or 0)), 5).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: the kernel had taken it, and nobody will
        return True
    return False


def test_sigterm_drains_and_ends_both(gateway: RunningGateway) -> None:
    body = json.dumps({"model": "mock", "prompt": "x", "max_tokens": 1500, "stream": True}).encode()
    headers = {"content-type": "application/json", "x-ranvier-output-tokens": "1500"}
    with urllib.request.urlopen(urllib.request.Request(f"{gateway.url}/v1/completions", body, headers)) as answer:
        answer.readline()
        gateway.process.send_signal(signal.SIGTERM)
        while not is_refused(gateway.url):
            assert b"[DONE]" not in answer.readline()
        assert b"data: [DONE]" in answer.read()
    assert gateway.process.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pids(gateway)[-1], 0)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--policy", "nope"], 1, "nope: no such policy"),
        (["--mock", "1", "--mock-profile", "nope"], 1, "did not start"),
    ],
)
def test_a_process_that_never_served_is_not_started_again(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gateway.cli", "serve", "--supervise", "--host", "127.0.0.1", *arguments]
    command += ["--port", str(free_port()), "--admin-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("gateway process started") == 1


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "gateway.cli", "serve", "--supervise", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--admin-port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; give another --port" in done.stderr


def test_a_crash_loop_is_waited_for_longer_and_longer() -> None:
    assert [delay(n) for n in range(1, 9)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, MAX_DELAY_SECONDS, MAX_DELAY_SECONDS]
