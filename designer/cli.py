"""``designer``: each command is one function in ``designer.commands``, registered here in one line."""

from __future__ import annotations

import typer

from designer.commands.evaluate import evaluate_command
from designer.evaluate import EvaluationError
from designer.simulator.scenario import ScenarioError
from designer.simulator.trace import TraceError
from gateway.mockworker.profile import ProfileError
from policies.loader import PolicyLoadError

INPUT_ERRORS = (EvaluationError, PolicyLoadError, ProfileError, ScenarioError, TraceError)
"""Their text is one line that says what to do: it is printed without a traceback, and the status is 2."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("evaluate")(evaluate_command)


@app.callback()
def _designer() -> None:
    """Invent, test and promote policies for the gateway, offline."""


def main() -> None:
    """Exits 0 only when the command did its job; 2 on bad input."""
    try:
        app()
    except INPUT_ERRORS as error:
        typer.echo(f"designer: {error}", err=True)
        raise SystemExit(2) from None
