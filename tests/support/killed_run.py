"""A run of the designer that dies by SIGKILL in the middle of its ledger, as by a power cut.

``python -m tests.support.killed_run FOLDER WHEN REGIME_SEEDS``: WHEN is a number, and that write is the last; odd ones
die before it, even ones after it; 0: to the end. Or it is a word, and it dies before the first write that has this
value (a split, the kind of a result); ``sealed*4``: before the fourth.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
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
    ablation_seeds=4,
    regime_seeds=0,
    why_seeds=0,
)


class KilledLedger(Ledger):
    """Dies at a write that was counted out in advance."""

    last = 0
    count = 0
    word = ""
    words_left = 1

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        KilledLedger.count += 1
        KilledLedger.words_left -= bool(self.word) and self.word in values
        if not KilledLedger.words_left:
            os.kill(os.getpid(), signal.SIGKILL)
        due = KilledLedger.count == KilledLedger.last
        if due and KilledLedger.last % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(statement, values)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, last_write: int | str = 0, regime_seeds: int = 0) -> subprocess.Popen[bytes]:
    """Begin the run in ``folder``, or go on with it, in a process of its own; with regimes, it takes much longer."""
    words = (str(folder), str(last_write), str(regime_seeds))
    return subprocess.Popen([sys.executable, "-m", "tests.support.killed_run", *words], cwd=ROOT)


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
    folder, when = Path(sys.argv[1]), sys.argv[2]
    if when.isdecimal():
        KilledLedger.last = int(when)
    else:
        KilledLedger.word, _, number = when.partition("*")
        KilledLedger.words_left = int(number or 1)
    with contextlib.suppress(LedgerError):
        settings = replace(SETTINGS, regime_seeds=int(sys.argv[3]))
        new_ledger(folder, small_scenario(40), settings, secret="not so secret")
    with KilledLedger.open(folder) as ledger:
        Search(ledger, jobs=2).run()
        sys.stdout.write(f"{KilledLedger.count} writes\n")


if __name__ == "__main__":
    main()
