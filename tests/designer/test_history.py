"""A run that is killed at any write and resumed tells the history of one that never stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from designer.history import history, history_digest
from designer.ledger import LEDGER_FILE, Ledger, LedgerError
from designer.search import new_ledger
from tests.support.killed_run import SETTINGS, children_of, start
from tests.support.small_scenario import small_scenario


def history_of(folder: Path) -> list[str]:
    return history(folder / LEDGER_FILE)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert start(folder).wait() == 0
    return history_of(folder)


KILLS = [(5, "sealed*4", "ablation")]
"""In the search, while it is judged, and while it is explained."""


@pytest.mark.parametrize("kills", KILLS, ids=str)
def test_killed_and_resumed_is_never_stopped(
    tmp_path: Path, uninterrupted: list[str], kills: tuple[int | str, ...]
) -> None:
    folder = tmp_path / "killed"
    for last_write in kills:
        assert start(folder, last_write).wait() == -signal.SIGKILL
    assert len(history_of(folder)) < len(uninterrupted)
    assert start(folder).wait() == 0
    assert history_of(folder) == uninterrupted


def test_no_process_outlives_a_killed_run(tmp_path: Path) -> None:
    process = start(tmp_path / "killed")
    children: list[int] = []
    while process.poll() is None and len(children) < 2:
        children = children_of(process.pid)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30.0
    while (alive := [pid for pid in children if _is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    assert alive == []


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_ledger_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed while it was made: what is left is no ledger, and the next start makes one."""
    (tmp_path / f"{LEDGER_FILE}.new").write_bytes(b"half a ledger")
    with pytest.raises(LedgerError, match="no run there"):
        Ledger.open(tmp_path)
    with new_ledger(tmp_path, small_scenario(40), SETTINGS) as ledger:
        assert ledger.run().settings["seed"] == SETTINGS.seed
    assert not (tmp_path / f"{LEDGER_FILE}.new").exists()


def test_the_history_is_all_but_times_and_starts(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        with new_ledger(tmp_path / name, small_scenario(40), SETTINGS, secret="same") as ledger:
            ledger.add_event("started", {"layers": [], "jobs": len(name)})
            ledger.add_event("finalist", {"digest": "d", "problem": ""}, once=True)
            ledger.add_event("finalist", {"digest": "d", "problem": ""}, once=True)
            assert len(list(ledger.events("finalist"))) == 1
            digests.add(history_digest(ledger.path))
            if name == "two":
                ledger.add_result("verdict", {"verdict": "better", "winner": "d"})
                digests.add(history_digest(ledger.path))
    assert len(digests) == 2
