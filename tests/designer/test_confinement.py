"""Each layer is tried by a child that has given it up, from inside."""

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from designer.confinement import Limits, bubblewrap, confine

ON_LINUX = sys.platform == "linux"


def _confined(attempt: Callable[[], object], limits: Limits | None = None) -> tuple[list[str], str]:
    """The layers, and what became of the attempt: ``done`` or the name of the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            layers = list(confine(limits or Limits(), [writing]))
            try:
                attempt()
                outcome = "done"
            except BaseException as error:
                outcome = type(error).__name__
            os.write(writing, json.dumps([layers, outcome]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    layers, outcome = json.loads(data)
    return layers, outcome


def _allocate() -> None:
    bytearray(4 << 30)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("fork", _fork),
    ("exec", lambda: os.execv("/bin/true", ["true"])),
    ("socket", socket.socket),
    ("socket pair", socket.socketpair),
    ("read a file", lambda: os.open("/etc/hostname", os.O_RDONLY)),
    ("write a file", lambda: os.open("/tmp/ranvier-test", os.O_WRONLY | os.O_CREAT)),
    ("list a folder", lambda: os.scandir("/")),
    ("signal the parent", lambda: os.kill(os.getppid(), 0)),
    ("leave the group", os.setsid),
]


@pytest.mark.skipif(not ON_LINUX, reason="seccomp and landlock are Linux's")
@pytest.mark.parametrize(("what", "attempt"), REFUSED, ids=[what for what, _ in REFUSED])
def test_a_confined_process_may_not(what: str, attempt: Callable[[], object]) -> None:
    layers, outcome = _confined(attempt)
    if "seccomp" not in layers:
        pytest.skip("this kernel or machine has no seccomp filter of ours")
    assert outcome == "PermissionError"


def test_a_confined_process_may_compute_and_answer() -> None:
    layers, outcome = _confined(lambda: sum(n * n for n in range(100_000)))
    assert outcome == "done"
    assert {"rlimits", "empty environment"} <= set(layers)


def test_memory_is_bounded() -> None:
    assert _confined(_allocate, Limits(memory_bytes=256 << 20))[1] == "MemoryError"


def test_no_file_descriptor_and_no_environment_is_left() -> None:
    secret, other = os.pipe()
    os.write(other, b"secret")
    try:
        assert _confined(lambda: os.read(secret, 6))[1] == "OSError"
    finally:
        os.close(secret)
        os.close(other)

    def environment_is_empty() -> None:
        assert not os.environ

    assert _confined(environment_is_empty)[1] == "done"


def test_a_descriptor_is_closed_whatever_its_number() -> None:
    """One above all that a fixed bound would reach, opened before the limit was lowered below it."""
    program = """
import json, os, resource, sys
sys.path[:] = json.loads(sys.argv[1])
from designer.confinement import Limits, confine
high = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (high + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
secret, other = os.pipe()
os.write(other, b"secret")
os.dup2(secret, high)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
out = os.dup(1)
confine(Limits(), [out])
try:
    os.write(out, os.read(high, 6))
except OSError as error:
    os.write(out, str(error.errno).encode())
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    high = 70_000 if hard == resource.RLIM_INFINITY else min(70_000, hard - 1)
    command = [sys.executable, "-c", program, json.dumps(sys.path), str(high)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == str(errno.EBADF), done.stderr


@pytest.mark.skipif(not ON_LINUX, reason="child subreapers are Linux's")
def test_what_a_child_leaves_behind_is_buried() -> None:
    """A grandchild in a session of its own, where nothing forbade it to fork: it writes its id and sleeps."""
    program = """
import os, sys, time
sys.path[:] = eval(sys.argv[1])
from designer.confinement import adopt_orphans, bury_orphans
adopt_orphans()
reading, writing = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.write(writing, str(os.getpid()).encode())
        time.sleep(600)
    os._exit(0)
left = int(os.read(reading, 20))
bury_orphans()
try:
    os.kill(left, 0)
except ProcessLookupError:
    print("buried")
"""
    done = subprocess.run([sys.executable, "-c", program, repr(sys.path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "buried", done.stderr


@pytest.mark.skipif(not bubblewrap(), reason="bubblewrap is not installed, or user namespaces are not allowed")
def test_behind_bubblewrap_nothing_is_written_and_nobody_reached() -> None:
    program = """
import os, socket
try:
    open("/var/tmp/ranvier-bubblewrap", "w")
except OSError as error:
    print(error.errno)
print(os.getpid() < 10, [name for _, name in socket.if_nameindex()])
"""
    done = subprocess.run([*bubblewrap(), sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == [str(errno.EROFS), "True ['lo']"], done.stderr
