"""``designer query`` as a user runs it: reads all but the secret, changes nothing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.ledger import LEDGER_FILE
from designer.search import new_ledger
from tests.designer.test_by_hand import BY_HAND
from tests.support.small_scenario import small_scenario


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with new_ledger(tmp_path / "run", small_scenario(60), BY_HAND, secret="very secret") as ledger:
        for n in range(5):
            ledger.add_event("seen", {"n": n})
    return tmp_path / "run"


def ask(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["query", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_rows_as_a_table_and_as_json(run: Path) -> None:
    assert ask(str(run), "SELECT kind, content FROM events", "--max-rows", "1") == (
        'kind  content\nseen  {"n": 0}\n(1 rows, there are more)\n'
    )
    told = json.loads(ask(str(run), "SELECT number, kind FROM events ORDER BY number DESC", "--json"))
    assert told["rows"][0] == {"number": 5, "kind": "seen"}
    assert told["truncated"] is False


def test_without_sql_the_tables_are_listed(run: Path) -> None:
    assert "candidates: arm, number, candidate_hash, proposer" in ask(str(run))


def test_the_secret_is_not_told(run: Path) -> None:
    assert "very secret" not in ask(str(run), "SELECT * FROM run")
    assert "secret" in ask(str(run), "SELECT * FROM run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "DELETE FROM events"], "only reading is allowed"),
        (["RUN", "SELECT missing FROM events"], "no such column: missing"),
        (["RUN", "ATTACH '/tmp/x' AS x"], "only reading is allowed"),
        (["/nowhere", "SELECT 1"], "no run there"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.replace("RUN", str(run)) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["designer", "query", *given])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_file_of_something_else_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ledger.sqlite").write_text("no database")
    monkeypatch.setattr("sys.argv", ["designer", "query", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "not a ledger" in line


def test_without_sql_json_is_json(run: Path) -> None:
    tables = json.loads(ask(str(run), "--json"))["tables"]
    assert tables["candidates"][:2] == ["arm", "number"]
    assert "sqlite_sequence" not in tables


@pytest.mark.parametrize("sql", [[], ["SELECT 1"]])
def test_the_database_of_another_program_is_no_ledger(tmp_path: Path, sql: list[str]) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    done = CliRunner().invoke(app, ["query", str(tmp_path), *sql])
    assert "not a ledger: it has no table run" in str(done.exception)
