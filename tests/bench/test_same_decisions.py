"""Of the comparison of Python and machine code: that it reads sources, tells a difference, and takes no stale code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bench.same_decisions import CASES, ROOT, compare, decisions


def test_lines_that_differ_are_named() -> None:
    assert compare([b"a", b"b"], [b"a", b"b"]) == 2
    with pytest.raises(SystemExit, match="line 2 differs"):
        compare([b"a", b"b"], [b"a", b"c"])
    with pytest.raises(SystemExit, match="line 3 differs"):
        compare([b"a", b"b", b"c"], [b"a", b"b"])


def test_records_are_every_event_and_every_column() -> None:
    lines = list(decisions(*CASES[0]))
    assert sum(line.startswith(b"[") for line in lines) > 1_000
    assert any(b'"checkpoint"' in line for line in lines)
    assert lines[-7].startswith(b"dispatched ")
    assert lines == list(decisions(*CASES[0]))


def test_the_pure_form_imports_sources_whatever_lies_beside_them() -> None:
    program = (
        "from tests.bench.same_decisions import forbid_machine_code\n"
        "forbid_machine_code()\n"
        "import gateway.core.dispatcher, numpy, designer.simulator.world as world\n"
        "print(gateway.core.dispatcher.__file__, world.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        str(ROOT / "gateway/core/dispatcher.py"),
        str(ROOT / "designer/simulator/world.py"),
    ]
