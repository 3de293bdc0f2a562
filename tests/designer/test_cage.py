"""What a caged process can and cannot do, tried out by one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from designer.cage import Cage, caged, environment, fence, layers_of, ports_of
from designer.processes import free_port

linux = pytest.mark.skipif(sys.platform != "linux", reason="the layers that are tried are Linux's")

TRIES = """
import ctypes, json, os, platform, resource, signal, socket, subprocess, sys
def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"
def connect(port):
    with socket.socket() as s:
        s.settimeout(5)
        s.connect(("127.0.0.1", port))
def fast_open(port):
    with socket.socket() as s:
        s.sendto(b"x", 0x20000000, ("127.0.0.1", port))
def bind(port):
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
def namespace():
    libc, number = ctypes.CDLL(None, use_errno=True), {"x86_64": 56, "aarch64": 220}[platform.machine()]
    pid = libc.syscall(number, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
told = json.loads(sys.argv[-1])
print(json.dumps({
    "reads a secret": tried(lambda: open(told["secret"]).read()),
    "lists its folder": tried(lambda: os.listdir(os.path.dirname(told["secret"]))),
    "reads what is given": tried(lambda: open(told["given"]).read()),
    "writes what is given": tried(lambda: open(told["given"], "a")),
    "writes at home": tried(lambda: open(os.environ["HOME"] + "/x", "w").write("x")),
    "writes elsewhere": tried(lambda: open("/tmp/ranvier-cage-test", "w")),
    "reaches the worker": tried(lambda: connect(told["worker"])),
    "reaches another port": tried(lambda: connect(told["other"])),
    "reaches it by fast open": tried(lambda: fast_open(told["other"])),
    "listens where it may": tried(lambda: bind(told["own"])),
    "listens elsewhere": tried(lambda: bind(told["free"])),
    "sends a datagram": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    "opens a local socket": tried(lambda: socket.socket(socket.AF_UNIX)),
    "opens multipath TCP": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)),
    "signals the parent": tried(lambda: os.kill(told["pid"], 0)),
    "starts a process": tried(lambda: subprocess.run([sys.executable, "-I", "-c", "import gateway"], check=True)),
    "makes a user namespace": tried(namespace),
    "leaves its session": tried(lambda: subprocess.Popen(["sleep", "300"], start_new_session=True)),
    "environment": sorted(os.environ),
    "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
"""


def run(cage: Cage, code: str, log: Path, *arguments: str) -> str:
    """``timeit`` is a module that runs a text; once is enough."""
    with log.open("wb") as out, caged(cage, "timeit", ["-n1", "-r1", code, *arguments], out) as process:
        process.wait(60)
    return log.read_text()


@linux
def test_what_it_cannot_do_and_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    secret, given = tmp_path / "secrets" / "ledger", tmp_path / "given.toml"
    secret.parent.mkdir()
    secret.write_text("the sealed seeds")
    given.write_text("x = 1")
    with socket.create_server(("127.0.0.1", 0)) as worker, socket.create_server(("127.0.0.1", 0)) as other:
        own, free = free_port(), free_port()
        ports = {"worker": worker.getsockname()[1], "other": other.getsockname()[1], "own": own, "free": free}
        cage = Cage(
            str(tmp_path / "home"), (str(given),), (own,), (ports["worker"],), open_files=500, more_processes=1000
        )
        told = {"secret": str(secret), "given": str(given), "pid": os.getpid(), **ports}
        code = TRIES.replace("sys.argv[-1]", repr(json.dumps(told)))
        done: dict[str, Any] = json.loads(run(cage, code, tmp_path / "log").splitlines()[0])
    layers = layers_of(cage)
    if not any("TCP ports, signals" in layer for layer in layers) or not any("seccomp" in layer for layer in layers):
        pytest.skip(f"this kernel has only {layers}")
    may = {"reads what is given", "writes at home", "reaches the worker", "listens where it may"}
    may |= {"starts a process", "leaves its session"}
    tries = {name: found for name, found in done.items() if isinstance(found, str)}
    assert {name for name, found in tries.items() if found == "done"} == may
    assert set(tries.values()) == {"done", "PermissionError"}
    assert "OPENAI_API_KEY" not in done["environment"]
    assert set(done["environment"]) >= {"HOME", "TMPDIR", "XDG_STATE_HOME"}
    assert done["open files"] == 500
    assert "300" not in sleeping()


def sleeping() -> str:
    """The arguments of every ``sleep`` that runs."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    return " ".join(line for line in found.splitlines() if line.startswith("sleep "))


@linux
def test_it_ends_with_the_designer_whatever_it_does(tmp_path: Path) -> None:
    """SIGKILL of whoever started it: the gateway that ignores SIGTERM, and what left its group, are gone."""
    code = (
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "left = subprocess.Popen(['sleep', '301'], start_new_session=True)\n"
        "open(os.environ['HOME'] + '/pids', 'w').write(f'{os.getpid()} {left.pid}')\n"
        "time.sleep(300)\n"
    )
    cage = Cage(str(tmp_path / "home"))
    starter = (
        "import sys, time\nfrom designer.cage import Cage, caged\n"
        f"with caged(Cage({cage.home!r}), 'timeit', ['-n1', '-r1', {code!r}], 2): time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], stderr=subprocess.DEVNULL)
    pids = tmp_path / "home" / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone = [Path("/proc") / pid for pid in pids.read_text().split()]
    until(lambda: not any(path.exists() for path in gone))


def until(true: Any) -> None:
    deadline = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass within a minute"
        time.sleep(0.05)


def test_the_environment_is_a_short_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("TZ", "UTC")
    told = environment(Cage(str(tmp_path)))
    assert told["TZ"] == "UTC"
    assert told["HOME"] == told["TMPDIR"] == told["XDG_STATE_HOME"] == str(tmp_path)
    assert not {"AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"} & told.keys()


def test_ports_of_workers() -> None:
    assert ports_of(["http://10.0.0.1:8000/", "http://w", "https://w/v1", "http://[::1]:8000"]) == (80, 443, 8000)


def test_the_fence_says_what_is_in_force(tmp_path: Path) -> None:
    """In a child, as there is no way back."""
    code = f"from designer.cage import *; print(len(fence(Cage({str(tmp_path)!r}, more_processes=5000))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 3
    assert fence.__doc__
