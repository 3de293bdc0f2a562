"""``designer fidelity``: how far the simulator is from the same requests in real time."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from designer.commands.limits import LAST_SEED
from designer.fidelity import METRICS, POLICIES, Comparison, Fidelity, compare
from designer.grid import Regime, apply
from designer.simulator.scenario import load_scenario


def fidelity_command(
    policies: Annotated[
        list[str] | None, typer.Argument(metavar="[POLICY]...", help=f"By default {', '.join(POLICIES)}.")
    ] = None,
    scenario: Annotated[str, typer.Option(help="A built-in scenario or a .toml file.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Of the requests.")] = 1,
    speed: Annotated[float, typer.Option(min=0.01, help="Scenario seconds in a second.")] = 1.0,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Only requests that arrive before, seconds of the scenario.")
    ] = None,
    kv: Annotated[
        float, typer.Option(min=0.001, help="Multiplies the KV blocks of every worker, as designer grid does.")
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Keep trace, records and logs in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay a scenario through the real gateway and mock workers, simulate it, and compare.

    Takes as long as the scenario, once for each policy. A run is invalid if the client fell behind or requests were
    lost; it is made once more. Exit status 1: it was again; it is shown, and left out of the summary.

    Example: designer fidelity least_loaded head_room --scenario demo
    """
    loaded = apply(load_scenario(scenario), Regime(kv=kv))
    progress = Console(stderr=True)
    with _folder(out) as folder:
        fidelity = compare(
            loaded,
            tuple(policies or POLICIES),
            seed,
            folder,
            speed=speed,
            first_seconds=seconds,
            on_policy=lambda done: _tell_progress(progress, done),
        )
    _show(fidelity, as_json)
    if len(fidelity.valid) < len(fidelity.comparisons):
        raise typer.Exit(1)


def _show(fidelity: Fidelity, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(to_dict(fidelity), indent=2))
    else:
        _print(fidelity, Console(width=None if sys.stdout.isatty() else 132))


def to_dict(fidelity: Fidelity) -> dict[str, Any]:
    """JSON scalars; errors are simulated over real, less one."""
    return {
        "scenario": fidelity.scenario,
        "seed": fidelity.seed,
        "speed": fidelity.speed,
        "policies": [
            dataclasses.asdict(comparison)
            | {"errors": {f"{s}_{m}": comparison.error(m, s) for m in METRICS for s in ("mean", "p99")}}
            for comparison in fidelity.comparisons
        ],
        "num_valid": len(fidelity.valid),
        "mean_absolute_errors": {f"{s}_{m}": fidelity.mean_error(m, s) for m in METRICS for s in ("mean", "p99")},
        "worst_errors": {f"{s}_{m}": fidelity.worst_error(m, s) for m in METRICS for s in ("mean", "p99")},
        "rank_correlations": {m: fidelity.rank_correlation(m) for m in METRICS},
    }


def _print(fidelity: Fidelity, console: Console) -> None:
    table = Table(title=f"{fidelity.scenario}, seed {fidelity.seed}: seconds in real time, and the simulator's error")
    for name in ("policy", "TTFT mean", "", "TTFT p99", "", "RT mean", "", "RT p99", "", "late p99", "run"):
        table.add_column(name, justify="left" if name in ("policy", "run") else "right", no_wrap=True)
    for comparison in fidelity.comparisons:
        lag, run = f"{comparison.lag_p99 * 1000:.1f} ms", comparison.verdict.partition(":")[0]
        table.add_row(comparison.policy, *_cells(comparison), lag, run)
    console.print(table)
    for comparison in fidelity.comparisons:
        if not comparison.is_valid:
            console.print(f"{comparison.policy}: {comparison.verdict}")
    for comparison in fidelity.comparisons:
        if comparison.heard is not None:
            console.print(f"{comparison.policy}: {comparison.heard}")
    console.print(f"valid runs: {len(fidelity.valid)} of {len(fidelity.comparisons)}")
    for metric in METRICS:
        mean, worst = (summary(metric, "mean") for summary in (fidelity.mean_error, fidelity.worst_error))
        mean99, worst99 = (summary(metric, "p99") for summary in (fidelity.mean_error, fidelity.worst_error))
        if mean is not None and worst is not None and mean99 is not None and worst99 is not None:
            text = f"{mean:.1%}, at worst {worst:.1%}; of p99 {mean99:.1%}, at worst {worst99:.1%}"
            console.print(f"absolute error of {metric}: of means {text}")
        correlation = fidelity.rank_correlation(metric)
        if correlation is not None:
            console.print(f"policies ranked by mean {metric}: rho {correlation[0]:.2f}, tau {correlation[1]:.2f}")


def _cells(comparison: Comparison) -> Iterator[str]:
    for metric in METRICS:
        yield f"{comparison.real.value(metric, 'mean'):.3f}"
        yield f"{comparison.error(metric, 'mean'):+.1%}"
        yield f"{comparison.real.value(metric, 'p99'):.3f}"
        yield f"{comparison.error(metric, 'p99'):+.1%}"


def _tell_progress(console: Console, done: Comparison) -> None:
    if console.is_terminal:
        console.print(f"{done.policy}: mean response time {done.real.response_time.mean:.2f} s, {done.verdict}")


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="ranvier-fidelity-") as folder:
        yield Path(folder)
