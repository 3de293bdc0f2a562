"""``designer run`` and ``designer resume``: search, control, validation, sealed test."""

from __future__ import annotations

import contextlib
import json as json_module
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from designer.commands import llm_options
from designer.commands.limits import LAST_SEED, MOST_JOBS, MOST_SEEDS, MOST_SIMULATIONS
from designer.commands.watching import Money, watching
from designer.executor import EXECUTORS, Executor, Placement, open_executor
from designer.findings import read_findings
from designer.ledger import Ledger
from designer.proposers.llm.message_log import MessageLog
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
    new_ledger,
)
from designer.simulator.scenario import Scenario, load_scenario
from designer.subject import load_subject, subject_of_specs
from designer.targets import BASELINES, REFERENCES, baselines_of, references_of
from designer.why import SEEDS as WHY_SEEDS
from policies.loader import PolicyLoadError

_DEFAULT = Protocol()
_INTERRUPTED = 130
JobsOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_JOBS, help="Simulations at a time; 2 here, all of a cluster.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, by whom, for how long."""

    scenario: Annotated[str, typer.Option(help="A built-in scenario or a .toml file.")] = "glia"
    proposer: Annotated[str, typer.Option(help=f"Who writes the candidates: {', '.join(PROPOSER_NAMES)}.")] = "evolve"
    target: Annotated[str, typer.Option(help=f"What is searched, by comma: {', '.join(PART_NAMES)}.")] = "routing"
    budget: Annotated[
        int, typer.Option(min=1, max=MOST_SIMULATIONS, help="Simulations (one policy, one seed) of the search.")
    ] = 100
    seed: Annotated[int, typer.Option(min=-LAST_SEED, max=LAST_SEED, help="Of the search and its train seeds.")] = 1
    control: Annotated[bool, typer.Option(help="The same budget for random samples and for tuned baselines.")] = True
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds of wall clock for one simulation.")] = 300.0
    baseline: Annotated[
        list[str] | None, typer.Option(help=f"What the winner must beat, the best of: {', '.join(BASELINES)}.")
    ] = None
    reference: Annotated[
        list[str] | None, typer.Option(help=f"Reported beside the winner: {', '.join(REFERENCES)}.")
    ] = None


@dataclass(frozen=True)
class TestOptions:
    """How the winner is tested."""

    train_seeds: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="Seeds the search may use.")] = (
        _DEFAULT.train_seeds
    )
    validation_seeds: Annotated[int, typer.Option(max=MOST_SEEDS, help="Fresh seeds for the finalists.")] = (
        _DEFAULT.validation_seeds
    )
    sealed_seeds: Annotated[int, typer.Option(max=MOST_SEEDS, help="Seeds of the one sealed test.")] = (
        _DEFAULT.sealed_seeds
    )
    finalists: Annotated[int, typer.Option(min=1, max=MOST_SEEDS, help="Candidates that are validated, at most.")] = (
        _DEFAULT.finalists
    )
    margin: Annotated[float, typer.Option(help="How much lower is better, relative.")] = _DEFAULT.margin
    looks: Annotated[int, typer.Option(min=1, max=2, help="2: an undecided test is doubled once.")] = _DEFAULT.max_looks
    ablation_seeds: Annotated[
        int, typer.Option(min=0, max=MOST_SEEDS, help="Seeds for the worth of each component; 0: none.")
    ] = 16
    regime_seeds: Annotated[
        int, typer.Option(min=0, max=MOST_SEEDS, help="Seeds in each regime of the certificate; 0: none.")
    ] = 4
    why_seeds: Annotated[
        int, typer.Option(min=0, max=MOST_SEEDS, help="Seeds of each intervention on why it wins; 0: none.")
    ] = WHY_SEEDS

    def protocol(self) -> Protocol:
        return Protocol(
            self.train_seeds,
            self.validation_seeds,
            self.finalists,
            self.sealed_seeds,
            margin=self.margin,
            max_looks=self.looks,
        )


@dataclass(frozen=True)
class ModelOptions:
    """Of the proposer that asks models."""

    llm: llm_options.ConfigOption = None
    model: llm_options.ModelOption = None
    base_url: llm_options.BaseUrlOption = None
    price: llm_options.PriceOption = None
    max_dollars: llm_options.DollarsOption = None
    prompts: llm_options.PromptsOption = None

    def settings(self, proposer: str) -> dict[str, Any] | None:
        given = asdict(self)
        return llm_options.llm_settings(proposer, config=given.pop("llm"), **given)


@dataclass(frozen=True)
class PlaceOptions:
    """Where simulations are made. It changes no result."""

    executor: Annotated[str, typer.Option(help=f"Who simulates: {', '.join(EXECUTORS)}.")] = "local"
    jobs: JobsOption = None
    ray_address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster that runs already; a new one on this machine.")
    ] = None
    allow_unconfined_nodes: Annotated[
        bool, typer.Option("--allow-unconfined-nodes", help="Also Ray nodes without landlock and seccomp.")
    ] = False

    def placement(self) -> Placement:
        return Placement(self.executor, self.jobs, self.ray_address, self.allow_unconfined_nodes).check()


def run_command(
    search: SearchOptions,
    test: TestOptions,
    models: ModelOptions,
    place: PlaceOptions,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run; runs/SCENARIO-PROPOSER-TIME.")] = None,
    json: JsonOption = False,
) -> None:
    """Search for a better policy and test the winner on seeds nobody has seen.

    Example: designer run --scenario glia --proposer evolve --budget 100 --seed 1 --out runs/first
    """
    loaded, placement = load_scenario(search.scenario), place.placement()
    settings = _settings(loaded, search, test, models)
    _check_policies("--baseline", settings.baselines)
    _check_policies("--reference", settings.references)
    folder = out or Path("runs") / f"{loaded.name}-{search.proposer}-{time.strftime('%Y%m%d-%H%M%S')}"
    with open_executor(placement) as executor, new_ledger(folder, loaded, settings) as ledger:
        typer.echo(f"run: {folder}", err=True)
        _go(ledger, executor, json)


def resume_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")], place: PlaceOptions, json: JsonOption = False
) -> None:
    """Go on with a run that was stopped; nothing that was simulated is simulated again.

    Example: designer resume runs/first
    """
    placement = place.placement()
    with Ledger.open(run) as ledger, open_executor(placement) as executor:
        _go(ledger, executor, json)


def _settings(scenario: Scenario, search: SearchOptions, test: TestOptions, models: ModelOptions) -> Settings:
    try:
        baselines, references = baselines_of(search.target, scenario), references_of(search.target)
    except TargetError as error:
        raise SearchError(f"--target: {error}") from None
    return Settings(
        proposer=search.proposer,
        target=search.target,
        budget=search.budget,
        seed=search.seed,
        control=search.control,
        baselines=tuple(search.baseline or baselines),
        references=tuple(search.reference or references),
        protocol=test.protocol(),
        deadline_seconds=search.deadline,
        ablation_seeds=test.ablation_seeds,
        regime_seeds=test.regime_seeds,
        why_seeds=test.why_seeds,
        llm=models.settings(search.proposer),
    ).check()


def _check_policies(option: str, specs: Sequence[str]) -> None:
    """Before there is a ledger: a run begun with a policy that is not there can neither go on nor be begun again."""
    for spec in specs:
        try:
            subject = subject_of_specs(spec)
            if subject.trusted:
                load_subject(subject, seed=0)
        except PolicyLoadError as error:
            raise SearchError(f"{option}: {error}") from None


def _go(ledger: Ledger, executor: Executor, json: bool) -> None:
    folder = ledger.path.parent
    try:
        with watching(_money(ledger)) as watcher:
            outcome = Search(ledger, watcher=watcher, executor=executor).run()
    except KeyboardInterrupt:
        typer.echo(f"stopped; designer resume {shlex.quote(str(folder))} goes on where it was", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    findings = read_findings(ledger)
    page = folder / "report.html"
    write_html(findings, page)
    if json:
        typer.echo(json_module.dumps({**to_json(findings), **_paths(outcome, page)}, indent=2))
    else:
        typer.echo(f"{to_text(findings)}\n\nreport: {page}")


def _money(ledger: Ledger) -> Money:
    """What a run may still spend on models."""
    llm = ledger.run().settings.get("llm")
    if not llm:
        return lambda: ""
    cap = float(llm["caps"]["dollars"])
    return lambda: f"${max(0.0, cap - _spent(ledger)):.2f} of ${cap:.2f} left"


def _spent(ledger: Ledger) -> float:
    """Dollars; what was sent and not answered counts with all that was reserved for it."""
    with contextlib.closing(MessageLog(ledger.path, write=False)) as messages:
        return messages.spent().dollars if messages.present else 0.0


def _paths(outcome: RunOutcome, page: Path) -> dict[str, Any]:
    policy = None if outcome.policy is None else str(outcome.policy.resolve())
    return {"policy": policy, "report": str(page.resolve()), "folder": str(outcome.folder.resolve())}
