"""Of two processes that would go on with a run, the second is refused, whatever became of the first before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from designer.going_on import LOCK_FILE, going_on
from designer.history import history
from designer.ledger import LedgerError
from designer.search import new_ledger
from tests.support.killed_run import ROOT, SETTINGS
from tests.support.small_scenario import small_scenario

HOLDER = """
import sys, time
from pathlib import Path
from designer.going_on import going_on
with going_on(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def test_the_second_is_told_who_the_first_is_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"mine\n"
        with pytest.raises(LedgerError, match=f"process {first.pid} is going on with this run; wait for it, or stop"):
            going_on(tmp_path).__enter__()
        os.kill(first.pid, signal.SIGKILL)
    with going_on(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    with going_on(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written"):
        going_on(tmp_path / "nothing").__enter__()


def test_designer_resume_refuses_a_run_that_goes_on(tmp_path: Path) -> None:
    """Two at once on one folder: one line and status 2 for the second, and nothing is written."""
    run = tmp_path / "run"
    with new_ledger(run, small_scenario(40), SETTINGS) as ledger:
        path = ledger.path
    before = history(path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"mine\n"
        command = [sys.executable, "-c", "from designer.cli import main; main()", "resume", str(run)]
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        first.kill()
    assert second.returncode == 2
    assert f"process {first.pid} is going on with this run" in second.stderr
    assert "Traceback" not in second.stderr
    assert history(path) == before
