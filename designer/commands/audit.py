"""``designer audit``: plant cheats, and say what caught each."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from designer import audit_page as page
from designer.audit import Audit, audit_scenario
from designer.audit_page import Report
from designer.audit_world import check_world
from designer.cheats import Cheat
from designer.commands.limits import MOST_JOBS
from designer.hostile import HOSTILE
from designer.layers import Catch
from designer.simulator.scenario import load_scenario


def audit_command(
    scenario: Annotated[
        list[str] | None, typer.Option(help="Besides the audit's own: asked whether they give anything away.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Plant only the cheats whose name holds this.")] = None,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds of wall clock for one simulation.")] = 10.0,
    cpu: Annotated[float, typer.Option(min=1.0, help="Seconds of processor time: what loops is stopped then.")] = 2.0,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Simulations at a time.")] = 2,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables of docs/audit.md.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plant cheats and hostile candidates, and faults in the simulator; every one must be caught, and do no harm.

    Each cheat is submitted as it is, and again with the static rules left out. Exit status 1: something slipped, did
    harm, or was caught by another layer than the one that is written down.

    Example: designer audit --scenario glia
    """
    progress = Console(stderr=True)
    with Audit(deadline_seconds=deadline, cpu_seconds=cpu, jobs=jobs) as audit:
        layers = audit.sandbox.layers()
        progress.print(f"sandbox: {', '.join(layers)}")
        findings = audit.run(_wanted(audit.cheats(), only), lambda f: _tell(progress, f.name, f.without_static))
        ordeals = audit.endurance(_wanted(HOSTILE, only), lambda o: _tell(progress, o.name, o.beside))
    scenarios = [audit_scenario(), *(load_scenario(name) for name in scenario or ())]
    report = Report(layers, findings, ordeals, [] if only else list(check_world(scenarios)))
    if json:
        typer.echo(json_module.dumps(report.to_json(), indent=2))
    elif markdown:
        typer.echo(f"{page.markdown(page.CHEAT_COLUMNS, page.cheat_rows(findings))}\n")
        typer.echo(page.markdown(page.HOSTILE_COLUMNS, page.hostile_rows(ordeals)))
    else:
        _print(report, Console(width=None if sys.stdout.isatty() else 150))
    if report.failures():
        raise typer.Exit(1)


def _wanted(cheats: Sequence[Cheat], only: Sequence[str] | None) -> list[Cheat]:
    return [cheat for cheat in cheats if not only or any(part in cheat.name for part in only)]


def _tell(console: Console, name: str, catch: Catch) -> None:
    if console.is_terminal:
        console.print(f"{name}: {catch.layer}, {catch.seconds:.1f} s")


def _print(report: Report, console: Console) -> None:
    said = [finding.without_static.detail for finding in report.findings]
    rows = [(*row, text[:90]) for row, text in zip(page.cheat_rows(report.findings), said, strict=True)]
    title = "What caught each cheat, as submitted and without the static rules"
    console.print(_table(title, (*page.CHEAT_COLUMNS, "what was said"), rows))
    title = "What stopped each hostile candidate, without the static rules"
    console.print(_table(title, page.HOSTILE_COLUMNS, page.hostile_rows(report.ordeals)))
    for check in report.checks:
        told = "holds" if check.holds else f"FAILS: {check.found or 'the planted fault was not found'}"
        console.print(f"{check.name}: {told} ({check.seconds:.1f} s; planted: {check.planted or 'not found'})")
    failures = report.failures()
    console.print("\n".join([f"{report.num_asked - len(failures)} of {report.num_asked} held", *failures]))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name == "s" else "left", no_wrap=name in (columns[0], "caught by"))
    for row in rows:
        table.add_row(*row)
    return table
