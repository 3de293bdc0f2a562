"""``designer audit``: plant cheats, and say what caught each."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from designer.audit import Audit, Finding, audit_scenario
from designer.audit_world import Check, check_world
from designer.simulator.scenario import load_scenario


def audit_command(
    scenario: Annotated[
        list[str] | None, typer.Option(help="Besides the audit's own: asked whether they give anything away.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Plant only the cheats whose name holds this.")] = None,
    deadline: Annotated[float, typer.Option(min=1.0, help="Seconds of wall clock for one simulation.")] = 30.0,
    cpu: Annotated[float, typer.Option(min=1.0, help="Seconds of processor time: what loops is stopped then.")] = 2.0,
    jobs: Annotated[int, typer.Option(min=1, help="Simulations at a time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plant cheats among the candidates and faults in the simulator; every one must be caught.

    Each cheat is submitted as it is, and again with the static rules left out. Exit status 1: something slipped.

    Example: designer audit --scenario glia
    """
    progress = Console(stderr=True)
    with Audit(deadline_seconds=deadline, cpu_seconds=cpu, jobs=jobs) as audit:
        layers = audit.sandbox.layers()
        progress.print(f"sandbox: {', '.join(layers)}")
        wanted = [c for c in audit.cheats() if not only or any(part in c.name for part in only)]
        findings = audit.run(wanted, lambda finding: _tell(progress, finding))
    scenarios = [audit_scenario(), *(load_scenario(name) for name in scenario or ())]
    checks = [] if only else list(check_world(scenarios))
    if json:
        typer.echo(json_module.dumps(_to_json(layers, findings, checks), indent=2))
    else:
        _print(findings, checks, Console(width=None if sys.stdout.isatty() else 150))
    if any(finding.slipped for finding in findings) or not all(check.holds for check in checks):
        raise typer.Exit(1)


def _to_json(layers: Sequence[str], findings: Sequence[Finding], checks: Sequence[Check]) -> dict[str, object]:
    return {
        "layers": list(layers),
        "cheats": [asdict(finding) | {"slipped": finding.slipped} for finding in findings],
        "checks": [asdict(check) | {"holds": check.holds} for check in checks],
        "num_slipped": sum(finding.slipped for finding in findings) + sum(not check.holds for check in checks),
    }


def _tell(console: Console, finding: Finding) -> None:
    if console.is_terminal:
        console.print(f"{finding.name}: {finding.caught.layer}, {finding.without_static.layer}")


def _print(findings: Sequence[Finding], checks: Sequence[Check], console: Console) -> None:
    table = Table(title="What caught each cheat, as submitted and without the static rules")
    for name in ("cheat", "wants", "caught by", "s", "without static rules", "s", "what was said"):
        table.add_column(name, justify="right" if name == "s" else "left", no_wrap=name in ("cheat", "caught by"))
    for finding in findings:
        first, then = finding.caught, finding.without_static
        times = f"{first.seconds:.2f}", f"{then.seconds:.2f}"
        table.add_row(finding.name, finding.wants, first.layer, times[0], then.layer, times[1], then.detail[:90])
    console.print(table)
    for check in checks:
        said = "holds" if check.holds else f"FAILS: {check.found or 'the planted fault was not found'}"
        console.print(f"{check.name}: {said} ({check.seconds:.1f} s; planted: {check.planted or 'not found'})")
    slipped = [finding.name for finding in findings if finding.slipped]
    slipped += [check.name for check in checks if not check.holds]
    caught = len(findings) + len(checks) - len(slipped)
    console.print(f"{caught} of {len(findings) + len(checks)} held" + "".join(f"\nslipped: {name}" for name in slipped))
