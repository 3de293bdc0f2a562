"""The command line as a whole."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from designer.cli import app
from gateway import __version__

COMMANDS = sorted(command.name or "" for command in app.registered_commands)


def test_help_lists_the_commands() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "offline" in done.stdout
    assert all(command in done.stdout for command in COMMANDS)


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"designer {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"Example: designer {command}" in " ".join(done.stdout.split())
