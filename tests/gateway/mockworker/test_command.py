"""The command as a process, on free ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.mockworker import command

LENGTH = "x-ranvier-output-tokens"
CHAT = "/v1/chat/completions"


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command once it listens, and what it said."""
    call = [sys.executable, "-W", "error", "-m", "gateway.mockworker", "--port", "0", *arguments]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def body(stream: bool = True) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], "stream": stream}


def read_stream(url: str, tokens: int, signal_to: subprocess.Popen[str]) -> Iterator[str]:
    """Lines of a stream; SIGTERM is sent after the first token."""
    with (
        httpx.Client(timeout=30) as client,
        client.stream("POST", url + CHAT, json=body(), headers={LENGTH: str(tokens)}) as r,
    ):
        sent = False
        for line in r.iter_lines():
            if not sent and '"content":" ' in line:
                signal_to.send_signal(signal.SIGTERM)
                sent = True
            yield line


def test_several_workers_and_a_record_of_each_request(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    with running("--count", "3", "--speed", "100", "--records", str(records), "--model", "m") as (process, ready):
        assert len(set(ready["urls"])) == 3 and ready["model"] == "m" and ready["pid"] == process.pid
        for i, url in enumerate(ready["urls"]):
            reply = httpx.post(url + CHAT, json=body(False), headers={"x-request-id": f"r{i}", LENGTH: "4"})
            assert reply.json()["usage"]["completion_tokens"] == 4
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(r["request_id"], r["worker"], r["num_output_tokens"]) for r in lines] == [
        (f"r{i}", url, 4) for i, url in enumerate(ready["urls"])
    ]


def test_sigterm_aborts(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    with running("--records", str(records)) as (process, ready):
        with pytest.raises(httpx.RemoteProtocolError):
            list(read_stream(ready["urls"][0], 100_000, process))
        assert process.wait(10) == 0
    assert json.loads(records.read_text())["outcome"] == "abort"


def test_sigterm_with_a_shutdown_timeout_finishes() -> None:
    with running("--shutdown-timeout", "20", "--speed", "5") as (process, ready):
        url = ready["urls"][0]
        lines = read_stream(url, 1200, process)
        seen = [next(line for line in lines if "content" in line and "role" not in line)]
        seen.append(next(lines))
        refused = wait_for_refusal(url)
        assert refused["message"] == "cannot schedule new futures after shutdown"
        assert httpx.get(url + "/health").status_code == 200
        seen += list(lines)
        assert [line for line in seen if line][-1] == "data: [DONE]"
        assert process.wait(10) == 0


def wait_for_refusal(url: str) -> dict[str, Any]:
    """The signal is on its way: requests are answered until it arrives."""
    for _ in range(200):
        reply = httpx.post(url + CHAT, json=body(False), headers={LENGTH: "1"})
        if reply.status_code == 500:
            error: dict[str, Any] = reply.json()["error"]
            return error
    raise AssertionError("never refused")


def test_it_stops_when_its_parent_has_gone(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'gateway.mockworker', '--port', '0', '--exit-with-parent'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(p.stdout.readline(), flush=True)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    pid = json.loads(parent.stdout)["pid"]
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("it outlived its parent by ten seconds")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--speed", "0"], "speed must be between"),
        (["--profile", "nope"], "nope: no such profile; built in are"),
        (["--max-num-seqs", "0"], "max_num_seqs must be at least 1, not 0"),
        (["--scheduling-policy", "lifo"], 'scheduling_policy must be "fcfs" or "priority"'),
        (["--count", "0"], "--count must be at least 1"),
        (["--port", "65536"], "--port must be 0 to 65535"),
        (["--records", "/nonexistent/records"], "--records /nonexistent/records: cannot be written"),
    ],
)
def test_wrong_values_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--port", "0", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and words in err


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert command.main(["--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"error: port {port} on 127.0.0.1 is in use: choose another --port, or 0 for a free one\n"
    )


def test_engine_flags_override_the_profile() -> None:
    with running("--num-gpu-blocks", "50", "--no-enable-prefix-caching") as (_, ready):
        shown = httpx.get(ready["urls"][0] + "/metrics").text
        (line,) = [line for line in shown.splitlines() if line.startswith("vllm:cache_config_info{")]
        assert 'num_gpu_blocks="50"' in line and 'enable_prefix_caching="False"' in line
        assert httpx.get(ready["urls"][0] + "/v1/models").json()["data"][0]["max_model_len"] == 800


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    assert "example: gateway mock-worker" in " ".join(capsys.readouterr().out.split())
