"""Everything that a ledger tells, in a form in which two runs can be compared.

A run that was killed, at whatever moment, and resumed tells the same as one that never stopped, if seed and secret are
the same. Not compared is what the clock and the process said: times, starts and ends, and the folder's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from designer.readonly_sql import open_readonly

_OF_THE_CLOCK = frozenset({"at", "wall_seconds"})
_OF_THE_PROCESS = frozenset({("run", "run"), ("events", "number")})
"""Starts and ends have a share in the numbers of events."""


def history(path: Path) -> list[str]:
    """Row by row, table by table, as text.

    Args:
        path: the ledger's file.
    """
    with contextlib.closing(open_readonly(path)) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return [line for (table,) in sorted(tables.fetchall()) for line in _rows(db, table)]


def _rows(db: sqlite3.Connection, table: str) -> Iterator[str]:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] not in _OF_THE_CLOCK]
    told = ", ".join(name for name in columns if (table, name) not in _OF_THE_PROCESS)
    where = "WHERE kind NOT IN ('started', 'finished')" if table == "events" else ""
    for row in db.execute(f"SELECT {told} FROM {table} {where} ORDER BY rowid"):  # noqa: S608 - names of the schema
        yield f"{table} {json.dumps(row)}"


def history_digest(path: Path) -> str:
    """SHA-256 (hex) of the history."""
    return hashlib.sha256("\n".join(history(path)).encode()).hexdigest()
