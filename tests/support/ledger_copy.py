"""A ledger somebody tampered with."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from designer.ledger import LEDGER_FILE, Ledger


def copied(source: Path, folder: Path, *statements: str) -> Ledger:
    """A copy of the run in ``source`` with a few rows changed by somebody who dropped the triggers."""
    folder.mkdir()
    before = sqlite3.connect(source / LEDGER_FILE)
    target = sqlite3.connect(folder / LEDGER_FILE)
    before.backup(target)
    before.close()
    for (trigger,) in target.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        target.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        target.execute(statement)
    target.commit()
    target.close()
    return Ledger.open(folder)
