"""The command as a user meets it: output, one line of error, exit status."""

from __future__ import annotations

import sys
from importlib import metadata

import orjson
import pytest

from loadgen import cli
from loadgen.records import read_records
from loadgen.trace import TraceRequest, read_trace, write_trace
from tests.support.fake_vllm import stream
from tests.support.threaded import threaded_vllm


@pytest.fixture
def loadgen(monkeypatch, capfd):
    """Runs the command here; returns exit status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loadgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        captured = capfd.readouterr()
        return int(exited.value.code or 0), captured.out, captured.err

    return run


def test_synth_and_describe(loadgen, tmp_path):
    trace = tmp_path / "t.jsonl"
    status, out, err = loadgen("synth", "--rate", 5, "--duration", 20, "--prefixes", 2, "--seed", 7, "-o", trace)
    count = len(list(read_trace(trace)))
    assert (status, out, err) == (0, f"{trace}: {count} requests\n", "")
    assert loadgen("describe", trace)[1].startswith(f"{trace}: {count} requests in ")
    told = orjson.loads(loadgen("describe", trace, "--json")[1])
    assert told["num_requests"] == count
    assert 0 < told["prefix_reuse"] < 1


def test_convert(loadgen, tmp_path):
    source, trace = tmp_path / "a.csv", tmp_path / "t.jsonl.gz"
    rows = "".join(f"2023-11-16 18:15:{n}.0000000,{n},1\n" for n in range(10, 50))
    source.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    status, out, _ = loadgen("convert", source, "-o", trace, "--limit-seconds", 30, "--max-requests", 5, "--json")
    assert (status, orjson.loads(out)) == (0, {"trace": str(trace), "num_requests": 5})
    assert [request.input_length for request in read_trace(trace)] == [10, 11, 12, 13, 14]


def test_replay_and_report(loadgen, tmp_path):
    trace, records = tmp_path / "t.jsonl", tmp_path / "r.jsonl"
    write_trace(trace, [TraceRequest(10.0 * n, 5, 3) for n in range(8)])
    with threaded_vllm(stream(3, delay=0.3)) as server:
        status, out, err = loadgen("replay", trace, "--url", server.url, "--records", records, "--json")
        assert len({request.headers["x-request-id"] for request in server.requests}) == 8
    report = orjson.loads(out)
    assert (report["num_completed"], report["errors"]) == (8, {})
    assert (status, err) == ((0, "") if report["valid"] else (1, f"error: {report['verdict']}\n"))
    assert orjson.loads(loadgen("report", records, "--json")[1]) == {str(records): report}
    assert f"{records}: 8 of 8 requests completed" in loadgen("report", records)[1]


def test_run(loadgen, tmp_path):
    records = tmp_path / "r.jsonl"
    with threaded_vllm(stream(2, delay=0.3)) as server:
        options = ("--url", server.url, "--concurrency", 2, "--rate", 4, "--duration", 1, "--input-tokens", 7)
        status, out, _ = loadgen("run", *options, "--output-tokens", 2, "--records", records)
        bodies = [request.json for request in server.requests]
    assert status == 0
    assert "4 of 4 requests completed" in out
    assert {body["max_tokens"] for body in bodies} == {2}
    assert [record.input_length for record in read_records(records)] == [7] * 4


def test_a_run_in_which_nothing_was_completed(loadgen, tmp_path):
    trace = tmp_path / "t.jsonl"
    write_trace(trace, [TraceRequest(0, 5, 3)])
    status, _, err = loadgen("replay", trace, "--url", "http://127.0.0.1:1")
    assert (status, err) == (1, "error: invalid: no request was completed (connect failed)\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["describe", "/no/such"], "/no/such: cannot be read: No such file or directory"),
        (["convert", "/no/such", "-o", "/tmp/x"], "/no/such: cannot be read"),
        (["report", "/no/such"], "/no/such: cannot be read"),
        (["synth", "--rate", "0", "-o", "/no/such/x"], "rate: must be above 0"),
        (["synth", "-o", "/no/such/x"], "/no/such/x: cannot be written"),
        (["synth", "--arrivals", "often", "-o", "/no/such/x"], "--arrivals: must be one of poisson, gamma"),
        (["synth", "--max-tokens", "a", "-o", "/no/such/x"], "--max-tokens: must be whole numbers"),
        (["convert", "/no/such", "--format", "x", "-o", "/tmp/x"], "--format: must be one of auto, azure"),
        (["replay", "/no/such", "--url", "x", "--speed", "0"], "--speed: must be above 0"),
        (["replay", "/no/such", "--url", "x", "--endpoint", "y"], "--endpoint: must be one of chat, completions"),
        (["replay", "/no/such", "--url", "x", "--max-tokens", "y"], "--max-tokens: must be one of trace, none, forced"),
        (["replay", "/no/such", "--url", "http://x"], "/no/such: cannot be read"),
        (["replay"], "Missing argument"),
        (["synth"], "Missing option"),
        (["run", "--url", "x", "--rate", "often"], "Invalid value for"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_status_2(loadgen, arguments, says):
    status, out, err = loadgen(*arguments)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: {says}")


@pytest.mark.parametrize("command", ["synth", "convert", "describe", "replay", "run", "report"])
def test_help_has_an_example(loadgen, command):
    status, out, _ = loadgen(command, "--help")
    assert status == 0
    assert f"Example: loadgen {command} " in out


def test_no_arguments_show_the_help(loadgen):
    status, _, err = loadgen()
    assert status == 2
    assert err.splitlines()[0].startswith("Usage: loadgen")
    assert "error" not in err


def test_version(loadgen):
    assert loadgen("--version") == (0, f"loadgen {metadata.version('ranvier')}\n", "")
