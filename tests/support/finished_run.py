"""A whole run of the designer on the small scenario: a few seconds, made once for a test session."""

from __future__ import annotations

from pathlib import Path

from designer.sealed import Protocol
from designer.search import RunOutcome, Search, Settings, Watcher, new_ledger
from tests.support.small_scenario import small_scenario

PROTOCOL = Protocol(train_seeds=3, validation_seeds=8, finalists=2, sealed_seeds=10)
SETTINGS = Settings(
    budget=36,
    seed=1,
    baselines=("least_loaded+fcfs", "random+fcfs"),
    references=("joint/head_room",),
    protocol=PROTOCOL,
    ablation_seeds=8,
    regime_seeds=0,
    why_seeds=0,
)


def finished_run(folder: Path, settings: Settings = SETTINGS, watcher: Watcher | None = None) -> RunOutcome:
    """Search, control, validation and sealed test; the ledger is in ``folder``."""
    with new_ledger(folder, small_scenario(), settings, secret="not so secret") as ledger:
        return Search(ledger, jobs=2, watcher=watcher).run()
