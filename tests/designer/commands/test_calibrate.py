"""``designer calibrate`` against a mock worker in real time, end to end over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from designer.cli import app
from designer.processes import free_port, running_mock_workers
from gateway.mockworker.profile import load_profile

QUICK = ["--longest-prompt", "1024", "--most-concurrent", "4", "--repeats", "1"]


def test_a_mock_worker_s_profile_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "found.toml"
    with running_mock_workers(["--profile", "demo", "--speed", "2"]) as (url,):
        arguments = ["calibrate", url, "-o", str(out), "--check-seconds", "2", "--max-num-seqs", "64", "--json", *QUICK]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = load_profile(out)
    # How near they come is shown in virtual time (test_calibrate.py): real time here is as good as the machine is idle.
    assert found.weights_ps > 0
    assert found.token_ps > 0
    assert (found.engine.num_gpu_blocks, found.engine.block_size) == (
        239,
        16,
    )  # vLLM keeps one block of those it tells; the mock does not
    assert found.engine.max_num_seqs == 64
    told = json.loads(result.output)
    assert {point["kind"] for point in told["points"]} == {"prefill", "decode", "mixed"}
    assert told["check"]["num_requests"] > 0
    assert found.notes is not None
    assert "designer calibrate" in found.notes["step.token_us"].source


def test_no_worker_is_one_line_and_no_file(tmp_path: Path) -> None:
    out = tmp_path / "none.toml"
    result = CliRunner().invoke(app, ["calibrate", f"http://127.0.0.1:{free_port()}", "-o", str(out)])
    assert result.exit_code != 0
    assert "127.0.0.1" in str(result.exception)
    assert not out.exists()
