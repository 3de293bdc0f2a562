"""``designer propose`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.search import new_ledger
from tests.designer.test_by_hand import BY_HAND
from tests.support.scripted_models import GOOD, IMPORTS_OS
from tests.support.small_scenario import small_scenario


def test_text_json_and_status(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(60), BY_HAND, secret="s"):
        pass
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(IMPORTS_OS)
    fixed = ["--run", str(tmp_path / "run"), "--hypothesis", "short first", "--jobs", "1"]
    done = CliRunner().invoke(app, ["propose", *fixed, "--file", str(tmp_path / "good.py"), "--predict", "0.9"])
    assert done.exit_code == 0, done.stderr
    assert "predicted 0.900, observed " in done.stdout
    assert "times least_loaded+fcfs on 2 train seeds" in done.stdout
    done = CliRunner().invoke(app, ["propose", *fixed, "--file", str(tmp_path / "bad.py"), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["reason"].startswith("breaks the contract")


def test_no_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    arguments = ["propose", "--run", str(tmp_path), "--file", str(tmp_path / "good.py"), "--hypothesis", "h"]
    monkeypatch.setattr("sys.argv", ["designer", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert "no run there" in capsys.readouterr().err
