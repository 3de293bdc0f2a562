"""Regimes: the same policies on the same seeds over a grid of KV budget x load x length mix x burstiness.

A scenario is the grid's origin; every cell is that scenario with its KV blocks and its arrival rate multiplied, its
median lengths multiplied, and its arrivals made more or less bursty. A policy is only as good as its worst cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import orjson

from designer.evaluate import EvaluationError, Scorecard, evaluate
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Arrivals, Scenario, SyntheticWorkload, TraceWorkload

AS_IT_IS = "as it is"
POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Regime:
    """One cell's place in the grid."""

    kv: float = 1.0
    """Multiplies the KV blocks of every worker."""
    load: float = 1.0
    """Multiplies the arrival rate."""
    prompts: float = 1.0
    """Multiplies the median prompt; the scenario's least and most stay."""
    outputs: float = 1.0
    """Multiplies the median output."""
    burstiness: str = AS_IT_IS
    """``poisson``, the sigma of log-normal gaps as a number, or ``as it is``."""

    @property
    def name(self) -> str:
        parts = [f"KV x{self.kv:g}", f"load x{self.load:g}"]
        if (self.prompts, self.outputs) != (1.0, 1.0):
            parts.append(f"lengths {self.lengths}")
        if self.burstiness != AS_IT_IS:
            parts.append(f"gaps {self.burstiness}")
        return ", ".join(parts)

    @property
    def lengths(self) -> str:
        return f"{self.prompts:g}x{self.outputs:g}"


@dataclass(frozen=True, slots=True)
class Cell:
    regime: Regime
    card: Scorecard


@dataclass(frozen=True, slots=True)
class Worst:
    """Where a policy does least well against another."""

    regime: Regime
    ratio: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Scorecards of all cells, in the order of the axes, the KV budget slowest."""

    scenario: str
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    comparators: tuple[str, ...]
    cells: tuple[Cell, ...]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """(policy, comparator), each two that differ; a comparator is compared with those named before it."""
        for index, comparator in enumerate(self.comparators):
            others = dict.fromkeys([*self.policies, *self.comparators[index + 1 :]])
            yield from ((policy, comparator) for policy in others if policy not in self.comparators[: index + 1])

    def worst(self, policy: str, comparator: str) -> Worst:
        cells = [Worst(cell.regime, cell.card.effect(policy, comparator).ratio) for cell in self.cells]
        return max(cells, key=lambda cell: cell.ratio)


def regimes(
    kv: Sequence[float], load: Sequence[float], lengths: Sequence[tuple[float, float]], burstiness: Sequence[str]
) -> tuple[Regime, ...]:
    """Every combination."""
    return tuple(Regime(k, n, p, o, b) for k, n, (p, o), b in product(kv, load, lengths, burstiness))


def apply(scenario: Scenario, regime: Regime, duration_seconds: float | None = None) -> Scenario:
    """The scenario in another regime, and of another length if one is given.

    Raises:
        EvaluationError: the regime asks for what a trace cannot give.
    """
    workload = scenario.workload
    changed = (
        _trace(workload, regime, duration_seconds)
        if isinstance(workload, TraceWorkload)
        else _synthetic(workload, regime, duration_seconds)
    )
    plans, groups, first = plan_workers(scenario), [], 0
    for workers in scenario.workers:
        blocks = round(plans[first].config.num_gpu_blocks * regime.kv)
        engine = dict(workers.engine) | {"num_gpu_blocks": max(1, blocks)}
        groups.append(workers.model_copy(update={"engine": engine}))
        first += workers.count
    return scenario.model_copy(update={"workload": changed, "workers": tuple(groups)})


def _synthetic(workload: SyntheticWorkload, regime: Regime, duration_seconds: float | None) -> SyntheticWorkload:
    arrivals = workload.arrivals
    shape: dict[str, Any] = {}
    if regime.burstiness == POISSON:
        shape = {"process": "poisson", "sigma": None, "cv": None}
    elif regime.burstiness != AS_IT_IS:
        shape = {"process": "lognormal", "sigma": float(regime.burstiness), "cv": None}
    prompt, output = workload.prompt_tokens, workload.output_tokens
    changes: dict[str, Any] = {
        "arrivals": Arrivals(**arrivals.model_dump() | {"rate": arrivals.rate * regime.load, **shape}),
        "prompt_tokens": prompt.model_copy(update={"median": prompt.median * regime.prompts}),
        "output_tokens": output.model_copy(update={"median": output.median * regime.outputs}),
    }
    if duration_seconds is not None:
        changes |= {"duration_seconds": duration_seconds, "num_requests": None}
    return workload.model_copy(update=changes)


def _trace(workload: TraceWorkload, regime: Regime, duration_seconds: float | None) -> TraceWorkload:
    if (regime.prompts, regime.outputs, regime.burstiness) != (1.0, 1.0, AS_IT_IS):
        raise EvaluationError("a trace has its own lengths and gaps: leave out --lengths and --burstiness")
    changes: dict[str, Any] = {"time_scale": workload.time_scale / regime.load}
    if duration_seconds is not None:
        changes["first_seconds"] = duration_seconds
    return workload.model_copy(update=changes)


def run_grid(
    policies: Sequence[str],
    scenario: Scenario,
    cells: Sequence[Regime],
    seeds: Sequence[int],
    *,
    comparators: Sequence[str],
    duration_seconds: float | None = None,
    jobs: int = 1,
    on_done: Callable[[], None] | None = None,
) -> Grid:
    """Every policy and comparator in every cell on every seed.

    Raises:
        EvaluationError, PolicyLoadError, ScenarioError, TraceError, ProfileError: bad input.
    """
    names = list(dict.fromkeys([*policies, *comparators]))
    done = []
    for regime in cells:
        there = apply(scenario, regime, duration_seconds)
        card = evaluate(names, there, seeds, comparator=comparators[0], jobs=jobs, on_done=on_done)
        done.append(Cell(regime, card))
    return Grid(scenario.name, tuple(seeds), tuple(policies), tuple(comparators), tuple(done))


def to_markdown(grid: Grid) -> str:
    """For each two policies a table of ratios for each length mix and burstiness: KV budget down, load across."""
    parts = [f"Scenario {grid.scenario}, {len(grid.seeds)} seeds a cell, {len(grid.cells)} cells.\n"]
    for policy, comparator in grid.pairs():
        worst = grid.worst(policy, comparator)
        parts.append(f"## {policy} / {comparator}\n")
        parts += [f"{title}{_pivot(rows)}\n" for title, rows in tables(grid, policy, comparator)]
        parts.append(f"Worst cell: {worst.regime.name}, ratio {worst.ratio:.3f}.\n")
    return "\n".join(parts) + "\nGeometric mean of the paired ratios over seeds; below 1 the first is better.\n"


def tables(grid: Grid, policy: str, comparator: str) -> Iterator[tuple[str, dict[float, dict[float, float]]]]:
    """(title, ratio by KV budget and load) for each length mix and burstiness; the title is empty if there is one."""
    kinds = list(dict.fromkeys((cell.regime.lengths, cell.regime.burstiness) for cell in grid.cells))
    for lengths, burstiness in kinds:
        rows: dict[float, dict[float, float]] = {}
        for cell in grid.cells:
            if (cell.regime.lengths, cell.regime.burstiness) == (lengths, burstiness):
                ratio = cell.card.effect(policy, comparator).ratio
                rows.setdefault(cell.regime.kv, {})[cell.regime.load] = ratio
        yield "" if len(kinds) == 1 else f"Lengths {lengths}, gaps {burstiness}:\n\n", rows


def _pivot(rows: dict[float, dict[float, float]]) -> str:
    loads = list(next(iter(rows.values())))
    lines = [["KV \\ load", *(f"x{load:g}" for load in loads)], ["---", *("--:" for _ in loads)]]
    lines += [[f"x{kv:g}", *(f"{row[load]:.3f}" for load in loads)] for kv, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_json(grid: Grid) -> bytes:
    """Every cell with its values, seed by seed, and every pair's ratio; the same grid gives the same bytes."""
    pairs = list(grid.pairs())
    content = {
        "scenario": grid.scenario,
        "seeds": list(grid.seeds),
        "cells": [_cell(cell, pairs) for cell in grid.cells],
        "worst": [
            {"policy": policy, "comparator": comparator, "cell": worst.regime.name, "ratio": worst.ratio}
            for policy, comparator in pairs
            for worst in [grid.worst(policy, comparator)]
        ],
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def _cell(cell: Cell, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    regime = cell.regime
    return {
        "name": regime.name,
        **{key: getattr(regime, key) for key in ("kv", "load", "prompts", "outputs", "burstiness")},
        "scenario_digest": cell.card.scenario_digest,
        "values": {score.spec: list(score.values) for score in cell.card.scores},
        "preempted_share": {score.spec: score.mean("preempted_share") for score in cell.card.scores},
        "ratios": [_ratio(cell, policy, comparator) for policy, comparator in pairs],
    }


def _ratio(cell: Cell, policy: str, comparator: str) -> dict[str, Any]:
    effect = cell.card.effect(policy, comparator)
    interval = effect.t_interval
    known = interval.low == interval.low
    return {
        "policy": policy,
        "comparator": comparator,
        "ratio": effect.ratio,
        "t_95": [interval.low, interval.high] if known else None,
    }
