"""SQL that can only read: one statement, no writing, no other file, so many rows and so much work at most."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STEP = 1000
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_REFUSED_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})
_MAX_VALUE = 1 << 20
"""Bytes of a value, and of a statement."""


class QueryError(Exception):
    """A query that cannot be answered; one line."""


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    """There are more rows."""

    def text(self, width: int = 60) -> str:
        """Aligned columns; values longer than ``width`` are cut."""
        cells = [[_cell(value, width) for value in row] for row in self.rows]
        lines = [list(self.columns), *cells]
        widths = [max(len(line[n]) for line in lines) for n in range(len(self.columns))]
        shown = [
            "  ".join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        note = f"({len(self.rows)} rows{', there are more' if self.truncated else ''})"
        return "\n".join([*shown, note])


def open_readonly(path: Path) -> sqlite3.Connection:
    """A file as it is, which other processes may be writing.

    Raises:
        QueryError: it cannot be opened.
    """
    try:
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise QueryError(f"{path}: {error}") from None


def run_query(
    db: sqlite3.Connection,
    sql: str,
    *,
    max_rows: int = 100,
    max_work: int = 50_000_000,
    hidden: Sequence[tuple[str, str]] = (),
) -> Table:
    """The rows of one SELECT.

    Args:
        max_work: instructions of SQLite's machine, so that the same query always gives the same answer; fifty million
            are about a second.
        hidden: (table, column) pairs that read as NULL.

    Raises:
        QueryError: it would write, takes too long, or is wrong.
    """
    left = [max_work // _STEP]

    def count() -> int:
        left[0] -= 1
        return int(left[0] < 0)

    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    db.set_authorizer(_authorizer(frozenset(hidden)))
    db.set_progress_handler(count, _STEP)
    try:
        cursor = db.execute(sql)
        rows = cursor.fetchmany(max_rows + 1)
        columns = tuple(column[0] for column in cursor.description or ())
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise QueryError(_reason(error, left[0] < 0)) from None
    finally:
        db.set_authorizer(None)
        db.set_progress_handler(None, 0)
    if not columns:
        raise QueryError("not a query: write one SELECT")
    return Table(columns, tuple(rows[:max_rows]), len(rows) > max_rows)


def _authorizer(hidden: frozenset[tuple[str, str]]) -> Any:
    def judge(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
        if action == sqlite3.SQLITE_READ and (first, second) in hidden:
            return sqlite3.SQLITE_IGNORE
        if action == sqlite3.SQLITE_FUNCTION:
            return sqlite3.SQLITE_DENY if second in _REFUSED_FUNCTIONS else sqlite3.SQLITE_OK
        return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY

    return judge


def _reason(error: Exception, spent: bool) -> str:
    if spent:
        return "the query takes too long; ask for less"
    text = " ".join(str(error).split())
    if "not authorized" in text or "prohibited" in text:
        return f"only reading is allowed ({text}); write one SELECT"
    return text


def _cell(value: Any, width: int) -> str:
    text = "NULL" if value is None else f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
