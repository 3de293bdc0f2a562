"""Hostile candidates are stopped by the layer meant for them, the sandbox goes on, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from designer.audit import audit_scenario
from designer.audit_pins import endured_as_pinned
from designer.cheats import BASE, Cheat
from designer.endurance import HARMLESS, Endurance, _descendants, _Traces
from designer.hostile import HOSTILE
from designer.layers import layer_of
from designer.sandbox import Sandbox
from designer.subject import subject_of_source
from tests.support.weak_simulation import WeakSandbox

QUICK = (
    "100 GB",
    "deep recursion",
    "floods the output",
    "nested answer",
    "raises KeyboardInterrupt",
    "exception without a text",
    "exception without a name",
    "unspeakable text",
    "cannot be compared",
    "NaN",
    "double fork",
    "leaves its group",
    "signals its parent",
    "abstract socket",
    "netlink",
    "io_uring_setup",
    "its own memory",
    "sleeps by poll",
    "file in /dev/shm",
    "uses up descriptors",
    "closes everything",
)
"""Those that burn no processor time; ``designer audit`` has all."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(audit_scenario(), jobs=1, deadline_seconds=10.0, cpu_seconds=1.0, memory_bytes=512 << 20) as made:
        yield made


@pytest.fixture(scope="module")
def endurance(sandbox: Sandbox) -> Endurance:
    return Endurance(sandbox, subject_of_source(BASE, "base"), 1)


@pytest.mark.parametrize("name", [*QUICK, "deaf to the limit"])
def test_the_sandbox_goes_on_and_nothing_is_left(sandbox: Sandbox, endurance: Endurance, name: str) -> None:
    if "seccomp" not in sandbox.layers():
        pytest.skip("this kernel or machine has no seccomp filter of ours")
    ordeal = endurance.undergo(next(cheat for cheat in HOSTILE if cheat.name == name))
    assert not ordeal.harmed, ordeal
    assert endured_as_pinned(name, ordeal.beside.layer, ordeal.apart.layer), ordeal


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_without_the_kernels_fence_the_sandbox_goes_on_too() -> None:
    """A grandchild in a session of its own is killed at the deadline; a warm parent that is killed is replaced."""
    base = subject_of_source(BASE, "base")
    with WeakSandbox(audit_scenario(), jobs=1, deadline_seconds=2.0) as weak:
        honest = weak.evaluate(base, 1)
        assert honest.status == "scored", honest.reason
        for name, layers in (("double fork", {"deadline", "rlimits"}), ("signals its parent", {"replacement"})):
            before = _Traces.of(weak)
            done = weak.evaluate(next(cheat for cheat in HOSTILE if cheat.name == name).subject, 1)
            assert layer_of(done.reason) in layers, done.reason
            assert before.left_since(weak) == ""
            assert weak.evaluate(base, 1).score == honest.score


def test_what_does_no_harm_is_scored(endurance: Endurance) -> None:
    ordeal = endurance.undergo(Cheat("none", "nothing", BASE))
    assert (ordeal.beside.layer, ordeal.apart.layer, ordeal.static) == (HARMLESS, HARMLESS, False)


def test_what_is_left_is_told(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = _Traces.of(sandbox)
    assert before.left_since(sandbox) == ""
    Path("ranvier-planted").write_text("x")
    descriptor = os.open("ranvier-planted", os.O_RDONLY)
    try:
        assert before.left_since(sandbox) == "1 descriptors, ./ranvier-planted"
    finally:
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_grandchild_is_a_descendant() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], check=False)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        while not list(_descendants([child.pid])):
            assert child.poll() is None
        assert set(_descendants([child.pid])) < set(_descendants([os.getpid()]))
        child.communicate(b"\n")
