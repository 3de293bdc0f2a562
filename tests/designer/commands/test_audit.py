"""``designer audit`` as a command."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from designer.cli import app


def test_it_prints_what_caught_the_cheats_and_exits_0_when_none_slips() -> None:
    done = CliRunner().invoke(app, ["audit", "--only", "a file", "--only", "lookalike", "--only", "netlink"])
    assert done.exit_code == 0, done.output
    assert "writes a file" in done.output
    assert "static rules" in done.output
    assert "4 of 4 held" in done.output


def test_as_json_for_a_program() -> None:
    done = CliRunner().invoke(app, ["audit", "--only", "lookalike", "--json"])
    content = json.loads(done.stdout)
    assert content["num_slipped"] == 0
    assert content["cheats"][0]["caught"]["layer"] == "guard"
    assert "rlimits" in content["layers"]


def test_as_the_tables_of_the_page() -> None:
    done = CliRunner().invoke(app, ["audit", "--only", "lookalike", "--only", "netlink", "--markdown"])
    lines = done.stdout.splitlines()
    assert lines[0] == "| cheat | what it wants | caught by | s | without the static rules | s |"
    assert any(line.startswith("| lookalike | answers with a candidate of its own making | guard |") for line in lines)
    assert any(line.startswith("| netlink |") and line.endswith("| yes | nothing |") for line in lines)
