"""``designer``: each command is one function in ``designer.commands``, registered here in one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from designer.calibrate import CalibrationError
from designer.commands.audit import audit_command
from designer.commands.calibrate import calibrate_command
from designer.commands.evaluate import evaluate_command
from designer.commands.fidelity import fidelity_command
from designer.commands.grid import grid_command
from designer.commands.messages import messages_command
from designer.commands.option_groups import grouped
from designer.commands.promotion import (
    promote_command,
    rehearse_command,
    report_command,
    rollback_command,
)
from designer.commands.propose import propose_command
from designer.commands.query import query_command
from designer.commands.replay import replay_command
from designer.commands.search import resume_command, run_command
from designer.commands.ui import ui_command
from designer.commands.why import why_command
from designer.evaluate import EvaluationError
from designer.executor import ExecutorError
from designer.fidelity import FidelityError
from designer.ledger import LedgerError
from designer.processes import ProcessError
from designer.promote import PromotionError
from designer.proposers.llm.conversation import LlmError
from designer.proposers.llm.settings import LlmSettingsError
from designer.readonly_sql import QueryError
from designer.replay import ReplayError
from designer.sandbox import SandboxError
from designer.search import SearchError
from designer.simulator.scenario import ScenarioError
from designer.simulator.trace import TraceError
from designer.swap_in import RehearsalError
from designer.why import WhyError
from designer.worker_probe import ProbeError
from gateway import __version__
from gateway.errors import GatewayError
from gateway.machine_code import machine_code
from gateway.mockworker.profile import ProfileError
from policies.loader import PolicyLoadError

INPUT_ERRORS = (
    *(
        CalibrationError,
        EvaluationError,
        ExecutorError,
        FidelityError,
        GatewayError,
        LedgerError,
        PolicyLoadError,
        ProfileError,
        PromotionError,
    ),
    *(LlmError, LlmSettingsError, QueryError),
    *(
        ProbeError,
        ProcessError,
        RehearsalError,
        ReplayError,
        SandboxError,
        ScenarioError,
        SearchError,
        TraceError,
        WhyError,
    ),
)
"""Their text is one line that says what to do: it is printed without a traceback, and the status is 2."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("evaluate")(evaluate_command)
app.command("grid")(grouped(grid_command))
app.command("run")(grouped(run_command))
app.command("resume")(grouped(resume_command))
app.command("report")(report_command)
app.command("rehearse")(rehearse_command)
app.command("promote")(promote_command)
app.command("rollback")(rollback_command)
app.command("fidelity")(fidelity_command)
app.command("calibrate")(calibrate_command)
app.command("audit")(audit_command)
app.command("ui")(ui_command)
app.command("why")(why_command)
app.command("replay")(replay_command)
app.command("propose")(propose_command)
app.command("query")(query_command)
app.command("messages")(messages_command)


@app.callback(invoke_without_command=True)
def _designer(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Invent, test and promote policies for the gateway, offline."""
    if version:
        typer.echo(f"designer {__version__}")
        raise typer.Exit
    code = machine_code()
    if code.state == "stale" or sys.stderr.isatty():
        typer.echo(f"designer: {code.line}", err=True)


def main() -> None:
    """Exits 0 only when the command did its job; 2 on bad input."""
    try:
        app()
    except INPUT_ERRORS as error:
        typer.echo(f"designer: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
