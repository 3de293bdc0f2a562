"""``designer why`` as a command."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from designer.cli import app
from designer.going_on import going_on
from designer.ledger import LedgerError
from designer.search import RunOutcome, new_ledger
from designer.why import WhyError
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


def test_a_run_without_a_winner_is_told_so(tmp_path: Path) -> None:
    new_ledger(tmp_path / "run", small_scenario(), SETTINGS)
    done = CliRunner().invoke(app, ["why", str(tmp_path / "run")])
    assert isinstance(done.exception, WhyError)


def test_a_run_that_goes_on_explains_its_winner_itself(outcome: RunOutcome) -> None:
    arguments = ["why", str(outcome.folder), "--seeds"]
    with going_on(outcome.folder):
        refused, told = (CliRunner().invoke(app, [*arguments, seeds]) for seeds in ("3", "2"))
    assert isinstance(refused.exception, LedgerError)
    assert "is going on with this run" in str(refused.exception)
    assert told.exit_code == 0, "what is known is only read"


def test_what_a_run_found_is_told_again_without_a_simulation(outcome: RunOutcome) -> None:
    arguments = ["why", str(outcome.folder), "--seeds", "2"]
    told, data = CliRunner().invoke(app, arguments), CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(data.stdout)
    assert found["seeds"] == 2
    assert told.stdout.startswith(found["sentence"])
    for row in found["interventions"]:
        assert f"without {row['without']}" in told.stdout
    for row in found["not_applicable"]:
        assert f"not taken away: {row['without']}: {row['reason']}" in told.stdout
    for line in found["traffic"]:
        assert line in told.stdout
