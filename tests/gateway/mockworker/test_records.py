from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.mockworker.records import RecordLog


def test_lines_are_appended_and_complete_after_close(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for part in range(2):
        with RecordLog(path) as log:
            for i in range(2000):
                log.write({"request_id": f"{part}-{i}", "outcome": "stop"})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["request_id"] for r in records] == [f"{part}-{i}" for part in range(2) for i in range(2000)]


def test_flush_makes_them_readable_at_once(tmp_path: Path) -> None:
    with RecordLog(tmp_path / "r") as log:
        log.write({"a": 1})
        log.flush()
        assert (tmp_path / "r").read_text() == '{"a":1}\n'


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RecordLog(tmp_path / "missing" / "r")
