"""A run of the designer that dies by SIGKILL in the middle of its ledger, as by a power cut.

``python -m tests.support.killed_run FOLDER N``: the N-th write is the last; odd N die before it, even N after it.
N is 0: to the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from designer.ledger import Ledger, LedgerError
from designer.sealed import Protocol
from designer.search import Search, Settings, new_ledger
from tests.support.small_scenario import small_scenario

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(
    budget=12,
    seed=3,
    baselines=("random+fcfs", "least_loaded+fcfs"),
    references=(),
    protocol=Protocol(train_seeds=2, validation_seeds=7, finalists=1, sealed_seeds=9),
)


class KilledLedger(Ledger):
    """Dies at a write that was counted out in advance."""

    last = 0
    count = 0

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        KilledLedger.count += 1
        due = KilledLedger.count == KilledLedger.last
        if due and KilledLedger.last % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(statement, values)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, last_write: int = 0) -> subprocess.Popen[bytes]:
    """Begin the run in ``folder``, or go on with it, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "tests.support.killed_run", str(folder), str(last_write)], cwd=ROOT)


def children_of(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def main() -> None:
    folder, KilledLedger.last = Path(sys.argv[1]), int(sys.argv[2])
    with contextlib.suppress(LedgerError):
        new_ledger(folder, small_scenario(40), SETTINGS, secret="not so secret")
    with KilledLedger.open(folder) as ledger:
        Search(ledger, jobs=2).run()
        sys.stdout.write(f"{KilledLedger.count} writes\n")


if __name__ == "__main__":
    main()
