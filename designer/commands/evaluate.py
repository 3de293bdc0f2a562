"""``designer evaluate``: a scorecard of policies beside the baselines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from designer.commands.limits import LAST_SEED, MOST_JOBS, MOST_SEEDS
from designer.commands.progress import progress
from designer.evaluate import BASELINES, COMPARATOR, EvaluationError, Scorecard, evaluate
from designer.scorecard import to_json, to_markdown
from designer.simulator.scenario import Scenario, load_scenario


def evaluate_command(
    specs: Annotated[
        list[str] | None,
        typer.Argument(metavar="POLICY...", help="Names or files: head_room@routing+fcfs, ./mine.py:alpha=0.5"),
    ] = None,
    scenario: Annotated[str, typer.Option(help="A built-in scenario or a .toml file.")] = "glia",
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, help="How many seeds; every policy runs on the same ones.")
    ] = 8,
    first_seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The first of them.")] = 1,
    baselines: Annotated[bool, typer.Option(help=f"Also run {', '.join(BASELINES)}.")] = True,
    comparator: Annotated[str, typer.Option(help="The policy that ratios are to.")] = COMPARATOR,
    reference: Annotated[bool, typer.Option(help="Also the clairvoyant reference and the lower bound.")] = True,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Processes.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every seed.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page (.html), or the table as Markdown (any other name).")
    ] = None,
) -> None:
    """Simulate policies on the same seeds of a scenario and compare them.

    Example: designer evaluate head_room expert --scenario glia --seeds 16
    """
    names = list(dict.fromkeys([*(BASELINES if baselines else ()), *(specs or ())]))
    if not names:
        raise EvaluationError("name a policy, or leave out --no-baselines")
    loaded = load_scenario(scenario)
    total = seeds * (len({*names, comparator}) + reference)
    with progress(total) as on_done:
        span = range(first_seed, first_seed + seeds)
        card = evaluate(names, loaded, span, comparator=comparator, reference=reference, jobs=jobs, on_done=on_done)
    _report(card, loaded, report)
    _print(card, json)


def _report(card: Scorecard, scenario: Scenario, path: Path | None) -> None:
    """The page looks closely at the first seed."""
    if path is None:
        return
    if path.suffix == ".html":
        from designer.evaluation_page import observe, to_html

        text = to_html(card, observe(card, scenario, card.seeds[0]))
    else:
        text = to_markdown(card)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror}") from None


def _print(card: Scorecard, json: bool) -> None:
    typer.echo(to_json(card) if json else to_markdown(card))
    if sys.stderr.isatty():
        rate = card.num_requests / max(card.cpu_seconds, 1e-9)
        typer.echo(f"{card.num_requests:,} requests simulated, {rate:,.0f} per CPU second", err=True)
