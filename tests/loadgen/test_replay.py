"""Whole runs, each in the process that sends, against a real server on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import orjson
import pytest

from loadgen.launch import LaunchError, send
from loadgen.plan import Plan
from loadgen.records import read_records
from loadgen.synth import Lengths, Workload
from loadgen.trace import TraceRequest, write_trace
from tests.support.fake_vllm import Exchange, choose, error, silent, stream
from tests.support.threaded import threaded_vllm


@pytest.fixture
def trace(tmp_path):
    """Twelve requests in 240 ms; the fourth and the eighth have a session that the servers below take offence at."""
    path = tmp_path / "trace.jsonl"
    sessions = {3: "bad", 7: "bad"}
    write_trace(path, [TraceRequest(20.0 * n, 50 + n, 5 + n, session_id=sessions.get(n)) for n in range(12)])
    return str(path)


def test_every_request_is_sent_once_and_recorded_once(trace, tmp_path):
    """Whatever becomes of it; times and lengths are the trace's."""
    behave = choose(lambda r: error(503) if r.headers.get("x-session-id") == "bad" else stream(3, prompt_tokens=9))
    records = str(tmp_path / "records.jsonl")
    with threaded_vllm(behave) as server:
        report = send(Plan(server.url, trace=trace, records=records, run_id="t", salt="s"))
        heard = {request.headers["x-request-id"]: request for request in server.requests}
    seen = sorted(read_records(records), key=lambda record: record.request_id)
    assert [record.request_id for record in seen] == sorted(heard) == [f"t-{n:06d}" for n in range(12)]
    assert [record.error for record in seen] == [None, None, None, "http 503"] * 2 + [None] * 4
    assert [record.intended for record in seen] == pytest.approx([0.02 * n for n in range(12)])
    assert all(record.sent >= record.intended for record in seen)
    good = [record for record in seen if record.error is None]
    assert all(record.sent < record.first_token <= record.end for record in good)
    assert {(record.num_prompt_tokens, record.num_output_tokens) for record in good} == {(9, 3)}
    assert [int(heard[record.request_id].headers["x-ranvier-output-tokens"]) for record in seen] == list(range(5, 17))
    assert [len(heard[r.request_id].json["messages"][0]["content"]) for r in seen] == [4 * (50 + n) for n in range(12)]
    assert (report["num_requests"], report["num_failed"], report["errors"]) == (12, 2, {"http 503": 2})


def test_open_loop_no_request_waits_for_an_answer(trace):
    """The server answers nobody until all twelve have come: a client that waited would never send the second."""
    everyone = asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        if exchange.request.headers["x-ranvier-output-tokens"] == "16":
            everyone.set()
        await everyone.wait()
        await stream(2)(exchange)

    with threaded_vllm(behave) as server:
        report = send(Plan(server.url, trace=trace, speed=2.0, timeout=20.0))
    assert (report["num_completed"], report["num_failed"]) == (12, 0)


def test_a_bound_on_what_is_under_way_shows_as_lag(trace):
    """Two at a time: the others wait in the client, and their latency counts from when they should have been sent."""
    at_once = [0, 0]

    async def behave(exchange: Exchange) -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await exchange.sleep(0.05)
        at_once[0] -= 1
        await stream(1)(exchange)

    with threaded_vllm(behave) as server:
        report = send(Plan(server.url, trace=trace, max_inflight=2, speed=10.0))
    assert at_once[1] == 2
    assert report["num_completed"] == 12
    assert not report["valid"]
    assert report["verdict"].startswith("invalid: 1 % of the requests were sent more than")


def test_closed_loop(tmp_path):
    at_once = [0, 0]

    async def behave(exchange: Exchange) -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await exchange.sleep(0.01)
        at_once[0] -= 1
        await stream(1)(exchange)

    workload = Workload(rate=10.0, duration=1.0, inputs=Lengths(5.0), arrivals="constant")
    records = str(tmp_path / "records.jsonl")
    with threaded_vllm(behave) as server:
        report = send(Plan(server.url, workload=workload, concurrency=3, records=records))
    assert at_once[1] == 3
    assert (report["num_completed"], report["lag"]["maximum"]) == (10, 0.0)


def test_nobody_listens(trace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        report = send(Plan(f"http://127.0.0.1:{taken.getsockname()[1]}", trace=trace, speed=20.0))
    assert report["errors"] == {"connect failed": 12}
    assert report["verdict"] == "invalid: no request was completed"


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan("http://127.0.0.1:1", trace="/no/such/trace"), "/no/such/trace: cannot be read: No such file"),
        (Plan("nonsense://x", workload=Workload(1.0, 9.0)), "nonsense://x: not a server's URL"),
        (Plan("http://x", workload=Workload(1.0, 9.0), records="/no/such/dir/r"), "/no/such/dir/r: cannot be written"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_one_line(plan, says, capfd):
    with pytest.raises(LaunchError) as caught:
        send(plan)
    assert caught.value.exit_status == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {says}")


def test_sigterm_ends_a_run_and_what_was_under_way_is_recorded(trace, tmp_path):
    records = tmp_path / "records.jsonl"
    with threaded_vllm(silent()) as server:
        plan = Plan(server.url, trace=trace, speed=20.0, records=str(records))
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.replay"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        process.stdin.write(orjson.dumps(plan.as_dict()))
        process.stdin.close()
        while len(server.requests) < 12 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        report = orjson.loads(process.stdout.read())
        process.stdout.close()
        assert process.wait() == 0
    assert report["errors"] == {"interrupted": 12}
    assert len(list(read_records(records))) == 12
