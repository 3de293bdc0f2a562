"""``designer why``: what a winner's gain consists of."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from designer.ledger import Ledger
from designer.why import explain


def why_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run that has a winner.")],
    seeds: Annotated[int, typer.Option(min=1, help="Validation seeds of each intervention.")] = 4,
    jobs: Annotated[int, typer.Option(min=1, help="Simulations at a time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take one thing away from both policies at a time, and see what is left of the gain. It goes into the report.

    Example: designer why runs/first
    """
    progress = Console(stderr=True)
    with Ledger.open(run) as ledger:
        found = explain(
            ledger,
            num_seeds=seeds,
            jobs=jobs,
            on_done=lambda name: progress.print(f"without {name}") if progress.is_terminal else None,
        )
    if json:
        typer.echo(json_module.dumps(found, indent=2))
        return
    typer.echo(found["sentence"])
    for row in found["interventions"]:
        means = f"{row['comparator']:8.2f} {row['winner']:8.2f} s"
        typer.echo(f"  without {row['without']:<28} {means}, {row['share']:5.0%} of the gain")
