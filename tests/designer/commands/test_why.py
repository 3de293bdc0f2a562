"""``designer why`` as a command."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from designer.cli import app
from designer.search import new_ledger
from designer.why import WhyError
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def test_a_run_without_a_winner_is_told_so(tmp_path: Path) -> None:
    new_ledger(tmp_path / "run", small_scenario(), SETTINGS)
    done = CliRunner().invoke(app, ["why", str(tmp_path / "run")])
    assert isinstance(done.exception, WhyError)
