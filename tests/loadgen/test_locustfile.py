"""The locustfile under Locust's own command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import loadgen
from loadgen.records import read_records
from loadgen.trace import TraceRequest, write_trace
from tests.support.fake_vllm import stream
from tests.support.threaded import threaded_vllm

FILE = Path(loadgen.__file__).with_name("locustfile.py")


def locust(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", FILE, "--headless", "--users", "1", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)


def test_a_replay_under_locust(tmp_path):
    trace, records = tmp_path / "t.jsonl", tmp_path / "r.jsonl"
    write_trace(trace, [TraceRequest(10.0 * n, 5, 3) for n in range(6)])
    with threaded_vllm(stream(3)) as server:
        done = locust("--host", server.url, "--trace", trace, "--records", records, "--only-summary")
        assert len(server.requests) == 6
    assert done.returncode == 0, done.stderr
    assert len(list(read_records(records))) == 6
    rows = [line.split() for line in (done.stdout + done.stderr).splitlines()]
    assert ["6", "0(0.00%)"] in [row[2:4] for row in rows if row[:2] == ["POST", "/v1/chat/completions"]]


def test_a_bad_trace_ends_the_run(tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text("oops\n")
    done = locust("--host", "http://127.0.0.1:1", "--trace", trace)
    assert done.returncode == 2
    assert f"{trace}:1: not JSON" in done.stderr
