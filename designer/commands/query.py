"""``designer query``: SQL over the ledger of a run, for reading."""

from __future__ import annotations

import json as json_module
import sqlite3
from pathlib import Path
from typing import Annotated

import typer

from designer.ledger import LEDGER_FILE
from designer.readonly_sql import QueryError, Table, open_readonly, run_query

HIDDEN = (("run", "secret"),)
"""Keys the seeds of validation and sealed test. Whoever writes candidates must not read it."""


def query_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    sql: Annotated[str, typer.Argument(help="One SELECT; without it, the tables and their columns.")] = "",
    max_rows: Annotated[int, typer.Option(min=1, max=100_000, help="Rows that are shown, at most.")] = 200,
    json: Annotated[bool, typer.Option("--json", help="Rows as JSON objects, values uncut.")] = False,
) -> None:
    """Ask the ledger of a run, without being able to change it. The tables are described in docs/designer.md.

    Example: designer query runs/first "SELECT number, hypothesis, predicted_effect FROM candidates"
    """
    path = run if run.name == LEDGER_FILE else run / LEDGER_FILE
    if not path.is_file():
        raise QueryError(f"{run}: no run there ({LEDGER_FILE} is missing); name the folder of a designer run")
    db = open_readonly(path)
    try:
        tables = _tables(db, path)
        if not sql:
            listed = "\n".join(f"{name}: {', '.join(columns)}" for name, columns in tables.items())
            typer.echo(json_module.dumps({"tables": tables}, indent=2) if json else listed)
            return
        table = run_query(db, sql, max_rows=max_rows, hidden=HIDDEN)
    finally:
        db.close()
    typer.echo(_as_json(table) if json else table.text())


def _tables(db: sqlite3.Connection, path: Path) -> dict[str, list[str]]:
    """The columns of each; QueryError when the file is not a ledger."""
    try:
        rows = db.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
            " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.rowid, c.cid"
        ).fetchall()
    except sqlite3.Error as error:
        raise QueryError(f"{path}: not a ledger: {error}") from None
    tables = dict[str, list[str]]()
    for table, column in rows:
        tables.setdefault(table, []).append(column)
    if "schema" not in tables.get("run", ()):
        raise QueryError(f"{path}: not a ledger: it has no table run with a column schema")
    return tables


def _as_json(table: Table) -> str:
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return json_module.dumps({"rows": rows, "truncated": table.truncated}, indent=2, default=repr)
