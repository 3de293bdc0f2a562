"""``designer audit`` as a command."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from designer.cli import app


def test_it_prints_what_caught_the_cheats_and_exits_0_when_none_slips() -> None:
    done = CliRunner().invoke(app, ["audit", "--only", "file", "--only", "lookalike"])
    assert done.exit_code == 0, done.output
    assert "writes a file" in done.output
    assert "static rules" in done.output
    assert "3 of 3 held" in done.output


def test_as_json_for_a_program() -> None:
    done = CliRunner().invoke(app, ["audit", "--only", "lookalike", "--json"])
    content = json.loads(done.stdout)
    assert content["num_slipped"] == 0
    assert content["cheats"][0]["caught"]["layer"] == "guard"
    assert "rlimits" in content["layers"]
