"""``designer propose``: a policy written by hand, or by any program, measured inside a run."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from designer.by_hand import HandOutcome, propose_by_hand
from designer.commands.limits import MOST_JOBS


def propose_command(
    file: Annotated[Path, typer.Option(help="The policy: one module, without parameters.")],
    run: Annotated[Path, typer.Option(help="The folder of a run.")],
    hypothesis: Annotated[str, typer.Option(help="Why it should be better, in words.")],
    predict: Annotated[
        float | None, typer.Option(help="The metric expected, as a ratio to the reference's: 0.9 is a tenth lower.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Simulations at a time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Measure a policy on the train seeds of a run and keep it in the ledger, with what was expected of it.

    Example: designer propose --run runs/first --file mine.py --hypothesis "short prompts first" --predict 0.9
    """
    outcome = propose_by_hand(run, file, hypothesis, predict, jobs=jobs, say=lambda line: typer.echo(line, err=True))
    typer.echo(json_module.dumps(outcome.to_json(), indent=2) if json else _text(outcome))
    if outcome.reason:
        raise typer.Exit(1)


def _text(outcome: HandOutcome) -> str:
    said = "no prediction" if outcome.predicted is None else f"predicted {outcome.predicted:.3f}"
    head = f"candidate {outcome.number} by hand ({outcome.candidate_hash[:12]}): {said}"
    if outcome.observed is None:
        return f"{head}, failed: {outcome.reason}"
    seeds = ", ".join(f"{ratio:.3f}" for ratio in outcome.ratios.values())
    measured = f"observed {outcome.observed:.3f} times {outcome.reference}"
    return f"{head}, {measured} on {len(outcome.ratios)} train seeds\n{seeds}"
