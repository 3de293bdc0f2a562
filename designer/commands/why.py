"""``designer why``: what a winner's gain consists of, and on what it hangs."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from designer.commands.limits import MOST_JOBS, MOST_SEEDS
from designer.executor import LocalExecutor
from designer.going_on import going_on
from designer.ledger import Ledger
from designer.why import SEEDS, explain, stored


def why_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run that has a winner.")],
    seeds: Annotated[
        int, typer.Option(min=2, max=MOST_SEEDS, help="Seeds of each intervention, used by nothing else.")
    ] = SEEDS,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Simulations at a time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take one thing away from both policies at a time, and see how much of the gain goes with it.

    designer run does so at its end; with more --seeds the intervals become narrower, and what was simulated before is
    not simulated again. The explanation on the most seeds is the one in the report.

    Example: designer why runs/first --seeds 16
    """
    progress = Console(stderr=True)
    with Ledger.open(run) as ledger, _alone(ledger, seeds):
        found = explain(
            ledger,
            LocalExecutor(jobs),
            num_seeds=seeds,
            on_done=lambda name: progress.print(f"without {name}") if progress.is_terminal else None,
        )
    typer.echo(json_module.dumps(found, indent=2) if json else "\n".join(_lines(found)))


def _alone(ledger: Ledger, seeds: int) -> AbstractContextManager[None]:
    """A run that goes on explains its winner itself; what is known is only read."""
    return nullcontext() if stored(ledger, seeds) is not None else going_on(ledger.path.parent)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield found["sentence"]
    yield f"ratio of the winner's {found['metric']} to the comparator's, {found['seeds']} seeds:"
    for row in found["interventions"]:
        yield f"  without {row['without']:<36} {_figures(row)}"
    for row in found["not_applicable"]:
        yield f"  not taken away: {row['without']}: {row['reason']}"
    if found["overlap"]:
        overlap = found["overlap"]
        yield (
            f"the mechanisms one by one: {overlap['one_by_one']:.0%} of the gain, together {overlap['together']:.0%}, "
            f"so interaction {overlap['interaction']:+.0%}"
        )
    won = found["winnable"]
    if won.get("share") is not None:
        yield f"won: {won['share']:.0%} of the way to the clairvoyant reference ({won['clairvoyant']:.2f} s)"
    yield from found["traffic"]


def _figures(row: Mapping[str, Any]) -> str:
    if "failure" in row:
        return f"failed: {row['failure']}"
    ends = row["t_interval"]
    text = f"{row['ratio']:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
    if row["kind"] == "none" or row["taken"] is None:
        return text
    low, high = row["taken_interval"]
    return f"{text}, {row['taken']:.0%} [{low:.0%}, {high:.0%}] of the gain is gone"
