"""Commands started, awaited and stopped: what is said when they fail."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

from designer.processes import ProcessError, finish, running_gateway, running_mock_workers, start


def test_a_gateway_and_its_workers_run_and_are_gone_afterwards(tmp_path: Path) -> None:
    with running_mock_workers(["--count", "2", "--profile", "demo"]) as urls:
        assert len(set(urls)) == 2
        workers = [word for url in urls for word in ("--worker", url)]
        with (
            running_gateway(workers, tmp_path / "gateway.log", num_workers=2) as gateway,
            urllib.request.urlopen(f"{gateway.url}/v1/models", timeout=5) as answer,
        ):
            assert answer.status == 200
        with pytest.raises(OSError):
            urllib.request.urlopen(gateway.url, timeout=1)
    with pytest.raises(OSError):
        urllib.request.urlopen(urls[0], timeout=1)


def test_a_gateway_that_does_not_start_points_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    with (
        pytest.raises(ProcessError, match=r"did not become ready; see .*gateway\.log"),
        running_gateway(["--policy", "no_such_policy"], log),
    ):
        pass
    assert "no_such_policy" in log.read_text()


def test_workers_that_do_not_start_are_an_error() -> None:
    with pytest.raises(ProcessError, match="ended with status"), running_mock_workers(["--profile", "nothing"]):
        pass


def test_a_failed_command_is_named() -> None:
    with pytest.raises(ProcessError, match="the reading ended with status 2"):
        finish(start("loadgen.cli", "describe", "/no/such/file", stdout=subprocess.PIPE), "the reading")
