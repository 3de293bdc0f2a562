"""``designer run`` and ``designer resume``: search, control, validation, sealed test."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from designer.arm import Progress
from designer.commands import llm_options
from designer.findings import read_findings
from designer.ledger import Ledger
from designer.proposers.parts import PART_NAMES
from designer.proposers.roster import TargetError
from designer.report import to_json, to_text, write_html
from designer.sealed import Protocol
from designer.search import (
    PROPOSER_NAMES,
    RunOutcome,
    Search,
    SearchError,
    Settings,
    Watcher,
    new_ledger,
)
from designer.simulator.scenario import load_scenario
from designer.targets import BASELINES, REFERENCES, baselines_of, references_of

_DEFAULT = Protocol()
JobsOption = Annotated[int, typer.Option(min=1, help="Simulations at a time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


def run_command(
    scenario: Annotated[str, typer.Option(help="A built-in scenario or a .toml file.")] = "glia",
    proposer: Annotated[str, typer.Option(help=f"Who writes the candidates: {', '.join(PROPOSER_NAMES)}.")] = "evolve",
    target: Annotated[str, typer.Option(help=f"What is searched, by comma: {', '.join(PART_NAMES)}.")] = "routing",
    budget: Annotated[int, typer.Option(min=1, help="Simulations (one policy, one seed) of the search.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the search and its train seeds.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run; runs/SCENARIO-PROPOSER-TIME.")] = None,
    jobs: JobsOption = 2,
    control: Annotated[bool, typer.Option(help="The same budget for random samples and for tuned baselines.")] = True,
    baseline: Annotated[
        list[str] | None, typer.Option(help=f"What the winner must beat, the best of: {', '.join(BASELINES)}.")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(help=f"Reported beside the winner: {', '.join(REFERENCES)}.")
    ] = None,
    train_seeds: Annotated[int, typer.Option(min=1, help="Seeds the search may use.")] = _DEFAULT.train_seeds,
    validation_seeds: Annotated[int, typer.Option(help="Fresh seeds for the finalists.")] = _DEFAULT.validation_seeds,
    sealed_seeds: Annotated[int, typer.Option(help="Seeds of the one sealed test.")] = _DEFAULT.sealed_seeds,
    finalists: Annotated[int, typer.Option(min=1, help="Candidates that are validated, at most.")] = _DEFAULT.finalists,
    margin: Annotated[float, typer.Option(help="How much lower is better, relative.")] = _DEFAULT.margin,
    looks: Annotated[
        int, typer.Option(min=1, max=2, help="2: an undecided test is doubled once.")
    ] = _DEFAULT.max_looks,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds of wall clock for one simulation.")] = 300.0,
    ablation_seeds: Annotated[int, typer.Option(min=0, help="Seeds for the worth of each component; 0: none.")] = 16,
    regime_seeds: Annotated[int, typer.Option(min=0, help="Seeds in each regime of the certificate; 0: none.")] = 4,
    llm: llm_options.ConfigOption = None,
    model: llm_options.ModelOption = None,
    base_url: llm_options.BaseUrlOption = None,
    price: llm_options.PriceOption = None,
    max_dollars: llm_options.DollarsOption = None,
    prompts: llm_options.PromptsOption = None,
    json: JsonOption = False,
) -> None:
    """Search for a better policy and test the winner on seeds nobody has seen.

    Example: designer run --scenario glia --proposer evolve --budget 100 --seed 1 --out runs/first
    """
    loaded = load_scenario(scenario)
    try:
        baselines, references = baselines_of(target, loaded), references_of(target)
    except TargetError as error:
        raise SearchError(f"--target: {error}") from None
    settings = Settings(
        proposer=proposer,
        target=target,
        budget=budget,
        seed=seed,
        control=control,
        baselines=tuple(baseline or baselines),
        references=tuple(reference or references),
        protocol=Protocol(train_seeds, validation_seeds, finalists, sealed_seeds, margin=margin, max_looks=looks),
        deadline_seconds=deadline,
        ablation_seeds=ablation_seeds,
        regime_seeds=regime_seeds,
        llm=llm_options.llm_settings(
            proposer,
            config=llm,
            model=model,
            base_url=base_url,
            price=price,
            max_dollars=max_dollars,
            prompts=prompts,
        ),
    )
    folder = out or Path("runs") / f"{loaded.name}-{proposer}-{time.strftime('%Y%m%d-%H%M%S')}"
    with new_ledger(folder, loaded, settings) as ledger:
        typer.echo(f"run: {folder}", err=True)
        _go(ledger, jobs, json)


def resume_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")], jobs: JobsOption = 2, json: JsonOption = False
) -> None:
    """Go on with a run that was stopped; nothing that was simulated is simulated again.

    Example: designer resume runs/first
    """
    with Ledger.open(run) as ledger:
        _go(ledger, jobs, json)


def _go(ledger: Ledger, jobs: int, json: bool) -> None:
    with _watching() as watcher:
        outcome = Search(ledger, jobs=jobs, watcher=watcher).run()
    findings = read_findings(ledger)
    page = outcome.folder / "report.html"
    write_html(findings, page)
    if json:
        typer.echo(json_module.dumps({**to_json(findings), **_paths(outcome, page)}, indent=2))
    else:
        typer.echo(f"{to_text(findings)}\n\nreport: {page}")


def _paths(outcome: RunOutcome, page: Path) -> dict[str, Any]:
    policy = None if outcome.policy is None else str(outcome.policy.resolve())
    return {"policy": policy, "report": str(page.resolve()), "folder": str(outcome.folder.resolve())}


@contextmanager
def _watching() -> Iterator[Watcher]:
    """Bars where standard error is a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines().watcher()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress).watcher()


class _Lines:
    """One line for each phase and rung."""

    def __init__(self) -> None:
        self._phase = ""
        self._last: tuple[str, int] = ("", -1)

    def watcher(self) -> Watcher:
        return Watcher(self._say, self._on_search, self._on_judge)

    def _say(self, line: str) -> None:
        typer.echo(line, err=True)

    def _on_search(self, progress: Progress) -> None:
        if (progress.arm, progress.spent) != self._last:
            self._last = (progress.arm, progress.spent)
            self._say(f"{_describe(progress)}, {progress.spent} of {progress.budget} simulations")

    def _on_judge(self, phase: str, total: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self._say(f"{phase}: {total} simulations")


class _Bars:
    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def watcher(self) -> Watcher:
        return Watcher(self._progress.console.print, self._on_search, self._on_judge)

    def _task(self, name: str, total: int) -> Any:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        return self._tasks[name]

    def _on_search(self, progress: Progress) -> None:
        task = self._task(progress.arm, progress.budget)
        self._progress.update(task, completed=progress.spent, description=_describe(progress))

    def _on_judge(self, phase: str, total: int) -> None:
        name = f"{phase} {total}"
        self._progress.advance(self._task(name, total))


def _describe(progress: Progress) -> str:
    best = "" if progress.best_ratio is None else f", best {progress.best_ratio:.3f}"
    return f"{progress.arm}: {progress.num_candidates} candidates{best}"
