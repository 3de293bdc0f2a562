"""``python -m tests.soak.resume``: a run of the designer killed by SIGKILL again and again, and resumed each time.

Half of the kills come at a counted write to the ledger, half at a random moment. Afterwards the history must be that of
a run that never stopped, and no process of a killed run may be left. Minutes long.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from designer.history import history_digest
from designer.ledger import LEDGER_FILE
from tests.support.killed_run import children_of, start

WRITES = 150
"""Of a whole run, about."""
PHASES = ("validation*9", "sealed*5", "sealed 1", "ablation", "regime*3", "verdict")
"""While it is judged and explained; what is past is not written again, and such a run goes on to its end."""


def kill_once(folder: Path, rng: random.Random, seconds: float, regimes: int) -> tuple[bool, list[int]]:
    """Whether the run was killed before its end, and its children of that moment."""
    if rng.random() < 0.5:
        moments: list[int | str] = [rng.randint(1, WRITES // 8), *PHASES]
        process = start(folder, rng.choice(moments), regimes)
        process.wait()
        return process.returncode == -signal.SIGKILL, []
    process = start(folder, 0, regimes)
    time.sleep(rng.uniform(0.2, seconds))
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL, children


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run of the designer at random moments, and resume it.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--regime-seeds", type=int, default=1, help="0: without the certificate, which takes long")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng, kills, runs, children = random.Random(options.seed), 0, 0, list[int]()
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole"
        started = time.monotonic()
        start(whole, 0, options.regime_seeds).wait()
        seconds = time.monotonic() - started
        expected, same = history_digest(whole / LEDGER_FILE), True
        while kills < options.kills:
            runs += 1
            folder = Path(place) / f"run{runs}"
            for _ in range(rng.randint(1, 4)):
                killed, left = kill_once(folder, rng, seconds, options.regime_seeds)
                kills += killed
                children += left
            start(folder, 0, options.regime_seeds).wait()
            found = history_digest(folder / LEDGER_FILE)
            same &= found == expected
            print(
                f"run {runs}: {kills} kills so far, history {'identical' if found == expected else 'DIFFERS'}",
                flush=True,
            )
    left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    print(f"{kills} kills in {runs} runs, histories {'identical' if same else 'DIFFERENT'}, {len(left)} processes left")
    sys.exit(0 if same and not left else 1)


if __name__ == "__main__":
    main()
