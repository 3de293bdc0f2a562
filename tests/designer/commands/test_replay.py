"""``designer replay`` as a command. The runs themselves are those of ``designer fidelity``, tested for real there."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from designer.cli import app
from designer.replay import ReplayError
from designer.search import new_ledger
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def test_a_run_without_a_winner_is_told_so(tmp_path: Path) -> None:
    new_ledger(tmp_path / "run", small_scenario(), SETTINGS)
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "run")])
    assert isinstance(done.exception, ReplayError)
    assert "no winner" in str(done.exception)


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["replay", str(tmp_path), "--pairs", "0"]).exit_code == 2


def test_a_slice_of_less_than_nothing_is_refused_by_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["replay", str(tmp_path), "--first", "-3"])
    assert done.exit_code == 2
    assert "--first" in done.stderr
