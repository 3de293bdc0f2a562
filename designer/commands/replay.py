"""``designer replay``: a winner beside its comparator, through the real gateway."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from designer.commands.limits import MOST_SEEDS
from designer.fidelity import Comparison
from designer.ledger import Ledger
from designer.replay import Conditions, replay


def replay_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run that has a winner.")],
    pairs: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="Pairs of runs to add; one pair is one seed.")] = 10,
    speed: Annotated[float, typer.Option(min=0.01, help="Scenario seconds in a second.")] = 1.0,
    first: Annotated[
        float | None, typer.Option(min=0.1, help="Only the first so many seconds of the scenario.")
    ] = None,
    worker: Annotated[list[str] | None, typer.Option(help="Address of a real worker; else mocks are started.")] = None,
    force: Annotated[bool, typer.Option(help="Also when the sealed verdict is not 'better'.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put the winner and its comparator through the real gateway in alternated pairs, and compare with the simulator.

    Every pair goes into the ledger, and all pairs there ever were are judged together; designer promote refuses what
    they contradict. Exit status 1: they contradict.

    Example: designer replay runs/first --pairs 10 --first 60
    """
    progress = Console(stderr=True)
    with Ledger.open(run) as ledger:
        outcome = replay(
            ledger,
            pairs=pairs,
            conditions=Conditions(speed, first, tuple(worker or ())),
            force=force,
            on_policy=lambda done: _tell(progress, done),
        )
    typer.echo(json_module.dumps(outcome, indent=2) if json else outcome["sentence"])
    if outcome["contradicts"]:
        raise typer.Exit(1)


def _tell(console: Console, done: Comparison) -> None:
    if console.is_terminal:
        policy = Path(done.policy).name
        console.print(f"{policy}: mean response time {done.real.response_time.mean:.2f} s, {done.verdict}")
