"""SQL that can only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from designer.readonly_sql import QueryError, open_readonly, run_query


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE seen (n INTEGER, word TEXT, secret TEXT)")
    connection.executemany("INSERT INTO seen VALUES (?, ?, 'hidden')", [(n, f"w{n}") for n in range(20)])
    yield connection
    connection.close()


def test_rows_come_with_their_columns_up_to_a_limit(db: sqlite3.Connection) -> None:
    table = run_query(db, "SELECT n, word FROM seen ORDER BY n", max_rows=2)
    assert (table.columns, table.rows, table.truncated) == (("n", "word"), ((0, "w0"), (1, "w1")), True)
    assert table.text() == "n  word\n0  w0\n1  w1\n(2 rows, there are more)"
    assert not run_query(db, "WITH a AS (SELECT 1 AS x) SELECT avg(x), count(*) FROM a").truncated


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM seen",
        "UPDATE seen SET n = 1",
        "INSERT INTO seen VALUES (1, '', '')",
        "DROP TABLE seen",
        "CREATE TABLE more (n)",
        "CREATE TEMP TABLE more AS SELECT 1",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "PRAGMA writable_schema = 1",
        "PRAGMA table_info(seen)",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM seen",
        "REINDEX",
        "SELEC 1",
        "",
    ],
)
def test_nothing_else_is_allowed(db: sqlite3.Connection, sql: str, tmp_path: Path) -> None:
    with pytest.raises(QueryError) as error:
        run_query(db, sql)
    assert "\n" not in str(error.value)
    assert db.execute("SELECT count(*), sum(n) FROM seen").fetchone() == (20, 190)
    assert not (tmp_path / "other.db").exists()


def test_work_is_limited_and_the_connection_serves_on(db: sqlite3.Connection) -> None:
    endless = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up) SELECT max(n) FROM up"
    with pytest.raises(QueryError, match="takes too long"):
        run_query(db, endless, max_work=1_000_000)
    assert run_query(db, "SELECT count(*) FROM seen").rows == ((20,),)
    with pytest.raises(QueryError, match="too big"):
        run_query(db, "SELECT zeroblob(100000000)")


def test_a_hidden_column_reads_as_null(db: sqlite3.Connection) -> None:
    hidden = [("seen", "secret")]
    assert run_query(db, "SELECT secret, n FROM seen LIMIT 1", hidden=hidden).rows == ((None, 0),)
    assert run_query(db, "SELECT max(secret) FROM seen", hidden=hidden).rows == ((None,),)


def test_a_file_is_opened_for_reading_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with pytest.raises(QueryError):
        run_query(open_readonly(path), "SELECT 1 FROM sqlite_master")
    assert not path.exists()
