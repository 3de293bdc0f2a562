"""Every table refuses every change, and every table of the schema has its triggers."""

from __future__ import annotations

import re
import sqlite3

import pytest

from designer.ledger_schema import APPEND_ONLY, SCHEMA

TABLES = re.findall(r"CREATE TABLE (\w+)", SCHEMA)


@pytest.mark.parametrize("table", TABLES)
def test_nothing_can_be_changed_or_deleted(table: str) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA + APPEND_ONLY)
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", tuple(range(len(columns))))
    for statement in (f"UPDATE {table} SET {columns[0]} = {columns[0]}", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    db.close()
