"""``designer grid``: policies over a grid of regimes, with the worst cell named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from designer.commands.limits import LAST_SEED, MOST_JOBS, MOST_SEEDS
from designer.commands.progress import progress
from designer.evaluate import COMPARATOR, EvaluationError
from designer.grid import AS_IT_IS, POISSON, Grid, Regime, regimes, run_grid, to_json, to_markdown
from designer.simulator.scenario import load_scenario
from designer.simulator.workload_tables import MOST_SIGMA

_T = TypeVar("_T")


@dataclass(frozen=True)
class GridOptions:
    """Which cells there are."""

    scenario: Annotated[str, typer.Option(help="The grid's origin: a built-in scenario or a .toml file.")] = "glia"
    kv: Annotated[str, typer.Option(help="Factors of the KV blocks.")] = "0.5,1,2"
    load: Annotated[str, typer.Option(help="Factors of the arrival rate.")] = "0.7,1,1.2"
    lengths: Annotated[str, typer.Option(help="Factors of the median prompt and output: 4x0.5.")] = "1x1"
    burstiness: Annotated[
        str | None, typer.Option(help="poisson, or the sigma of log-normal gaps: poisson,1,2. The scenario's own.")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="In each cell.")] = 4
    first_seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="The first of them.")] = 1
    duration: Annotated[float | None, typer.Option(min=1.0, help="Seconds of arrivals; the scenario's own.")] = None

    def cells(self) -> tuple[Regime, ...]:
        return regimes(
            _factors(self.kv, "--kv"),
            _factors(self.load, "--load"),
            _read(self.lengths, "--lengths", "4x0.5", _mix),
            (AS_IT_IS,)
            if self.burstiness is None
            else _read(self.burstiness, "--burstiness", f"poisson or 1.5, a sigma of at most {MOST_SIGMA:g}", _gaps),
        )


def grid_command(
    specs: Annotated[list[str], typer.Argument(metavar="POLICY...", help="Names or files, as for evaluate.")],
    grid: GridOptions,
    comparator: Annotated[list[str] | None, typer.Option(help="Ratios are to it; may be given again.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=MOST_JOBS, help="Processes.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every cell and seed.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write heat maps to this HTML file.")] = None,
) -> None:
    """Simulate policies over KV budget x load x length mix x burstiness, and name each policy's worst cell.

    Example: designer grid head_room --kv 0.5,1,8 --load 0.7,1 --comparator least_loaded --comparator expert
    """
    cells, comparators = grid.cells(), comparator or [COMPARATOR]
    total = len(cells) * grid.seeds * len({*specs, *comparators})
    with progress(total) as on_done:
        found = run_grid(
            specs,
            load_scenario(grid.scenario),
            cells,
            range(grid.first_seed, grid.first_seed + grid.seeds),
            comparators=comparators,
            duration_seconds=grid.duration,
            jobs=jobs,
            on_done=on_done,
        )
    if report is not None:
        _write(found, report)
    typer.echo(to_json(found) if json else to_markdown(found))


def _write(grid: Grid, report: Path) -> None:
    from designer.grid_page import to_html

    try:
        report.write_text(to_html(grid), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{report}: cannot be written: {error.strerror}") from None


def _read(text: str, option: str, example: str, parse: Callable[[str], _T]) -> tuple[_T, ...]:
    """A list separated by commas, each value once."""
    try:
        return tuple(dict.fromkeys(parse(part.strip()) for part in text.split(",")))
    except ValueError:
        raise EvaluationError(
            f"{option} {text}: write positive numbers separated by commas, such as {example}"
        ) from None


def _factors(text: str, option: str) -> tuple[float, ...]:
    return _read(text, option, "0.5,1,2", _positive)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def _mix(text: str) -> tuple[float, float]:
    prompts, outputs = text.split("x")
    return _positive(prompts), _positive(outputs)


def _gaps(text: str) -> str:
    if text == POISSON:
        return POISSON
    if (sigma := _positive(text)) > MOST_SIGMA:
        raise ValueError
    return f"{sigma:g}"
