"""What the demo accepts as a replay: every request answered, every request recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from designer.demo import Demo, DemoError, _row

GOOD = {"request_id": "a", "intended": 1.0, "end": 3.5, "error": None}


def replayed(folder: Path, records: list[dict[str, Any]], report: dict[str, Any] | None) -> Any:
    """``Demo._measured`` over a finished load generator that left these."""
    (folder / "x.records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    text = "" if report is None else json.dumps(report)
    process = subprocess.Popen([sys.executable, "-c", f"print({text!r}, end='')"], stdout=subprocess.PIPE)
    return Demo(folder, 1, Console(quiet=True))._measured(process, "x")


def test_response_times_count_from_the_intended_send(tmp_path: Path) -> None:
    measured = replayed(tmp_path, [GOOD], {"num_requests": 1})
    assert measured.response_times == {"a": 2.5}
    assert measured.mean == 2.5


def test_a_failed_request_fails_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="lost 1 requests; the first: timeout"):
        replayed(tmp_path, [GOOD, {**GOOD, "request_id": "b", "error": "timeout"}], {"num_requests": 2})


def test_an_unrecorded_request_fails_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="recorded 1 of 2"):
        replayed(tmp_path, [GOOD], {"num_requests": 2})


def test_a_load_generator_that_says_nothing_fails_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="ended with status"):
        replayed(tmp_path, [], None)


def test_a_replayed_request_is_the_row_of_the_trace() -> None:
    assert [_row(name) for name in ("s4242-17", "s4242-17/2", "s4242-0/3")] == [17, 17, 0]
