"""Dataclasses of options, as typer sees them and as the command gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from designer.commands.option_groups import grouped


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="Across.")] = 3
    tall: Annotated[bool, typer.Option(help="Upwards.")] = False


def paint(colour: Annotated[str, typer.Argument(help="What colour.")], size: Size, coats: int = 1) -> None:
    """Paint it."""
    typer.echo(f"{colour} {size} {coats}")


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(grouped(paint))
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_the_fields_are_options_and_come_back_as_the_group() -> None:
    assert invoke("red") == (0, "red Size(width=3, tall=False) 1\n")
    assert invoke("red", "--width", "5", "--tall", "--coats", "2") == (0, "red Size(width=5, tall=True) 2\n")


def test_their_limits_and_their_help_are_the_options_own() -> None:
    assert invoke("red", "--width", "0")[0] == 2
    status, text = invoke("--help")
    assert status == 0
    for told in ("Paint it.", "Across.", "Upwards.", "What colour.", "default: 3", "--no-tall"):
        assert told in text
    assert "size" not in text.replace("--", "").lower()
