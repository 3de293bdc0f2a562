"""``designer ui`` as a command."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from typer.testing import CliRunner

from designer.cli import app
from designer.ledger import LedgerError


def test_it_serves_a_folder_without_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "designer.cli", "ui", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"No run yet" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["ui", str(tmp_path / "nowhere")])
    assert isinstance(done.exception, LedgerError)
    assert "nowhere" in str(done.exception)
