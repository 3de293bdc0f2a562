"""Where a winner won: the same contest in regimes that were written down before any run, worst cell included.

Each cell says what a gateway would measure there, so that an operator can tell which cell is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from designer.evaluate import EvaluationError
from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.executor import Executor
from designer.grid import AS_IT_IS, POISSON, Regime, apply, regimes
from designer.ledger import EvaluationRecord, Ledger, seed_of
from designer.sealed import Scored, effect_json, effect_of, tier_of
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, draw_workload
from designer.subject import Subject

REGIMES: tuple[Regime, ...] = (
    *regimes((0.8, 1.0, 1.3), (0.8, 1.0, 1.15), ((1.0, 1.0),), (AS_IT_IS,)),
    Regime(burstiness=POISSON),
    Regime(prompts=3.0),
    Regime(outputs=0.5),
)
"""KV budget x load, and from the middle one step each in burstiness, prompts and outputs."""
_WON = 1.0
"""A cell is won if the whole interval of the ratio is below this."""


def certify(
    ledger: Ledger,
    scenario: Scenario,
    winner: Subject,
    others: Sequence[Subject],
    seeds_per_cell: int,
    *,
    executor: Executor,
    deadline_seconds: float,
    cells: Sequence[Regime] = REGIMES,
) -> dict[str, Any]:
    """The winner against ``others``, the comparator first, in every cell; a cell the scenario cannot make is named."""
    secret = ledger.run().secret
    found: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for regime in cells:
        try:
            there = apply(scenario, regime)
        except EvaluationError as error:
            failed.append({"regime": regime.name, "failure": str(error)})
            continue
        seeds = [seed_of(secret, "regime", n, regime.name) for n in range(seeds_per_cell)]
        with executor.at(there, deadline_seconds) as runner:
            records = _scores(Evaluator(ledger, runner, there.digest), [winner, *others], seeds)
        cell = _cell(regime, there, seeds[0], winner, others, records)
        (failed if "failure" in cell else found).append(cell)
    return {
        "seeds": seeds_per_cell,
        "cells": found,
        "worst": _worst(found),
        "won_in": _envelope([cell["measured"] for cell in found if cell["won"]]),
        "failed": failed,
    }


def _scores(
    evaluator: Evaluator, subjects: Sequence[Subject], seeds: Sequence[int]
) -> Mapping[str, list[EvaluationRecord]]:
    """By digest."""
    jobs = [Job(subject, seed, tier_of(subject)) for seed in seeds for subject in subjects]
    records = evaluator.run("regime", jobs)
    return {subject.digest: records[n :: len(subjects)] for n, subject in enumerate(subjects)}


def _cell(
    regime: Regime,
    scenario: Scenario,
    seed: int,
    winner: Subject,
    others: Sequence[Subject],
    records: Mapping[str, list[EvaluationRecord]],
) -> dict[str, Any]:
    mine = Scored(winner, scores_by_seed(records[winner.digest]))
    failures = [r.reason for entries in records.values() for r in entries if r.status == "failed"]
    place = {key: getattr(regime, key) for key in ("kv", "load", "prompts", "outputs", "burstiness")}
    if failures:
        return {"regime": regime.name, **place, "failure": failures[0]}
    against = [
        {**effect_json(effect_of(mine, Scored(other, scores_by_seed(records[other.digest])))), **_names(other)}
        for other in others
    ]
    return {
        "regime": regime.name,
        **place,
        "measured": {**_traffic(scenario, seed), **_seen(records[others[0].digest])},
        "against": against,
        "won": against[0]["t_interval"][1] < _WON,
    }


def _names(other: Subject) -> dict[str, str]:
    return {"label": other.label, "digest": other.digest}


def _traffic(scenario: Scenario, seed: int) -> dict[str, float]:
    """What the gateway counts at its door and in its answers: rates, lengths, burstiness."""
    columns = draw_workload(scenario, seed)
    arrivals = np.sort(np.asarray(columns.arrival_ps, dtype=np.float64)) / PS_PER_SECOND
    gaps = np.diff(arrivals)
    span = max(float(arrivals[-1] - arrivals[0]), 1e-9)
    tokens = float(columns.num_prompt_tokens.sum() + columns.num_output_tokens.sum())
    measured = {"arrival_rate": len(arrivals) / span, "gap_cv": float(gaps.std() / max(gaps.mean(), 1e-12))}
    for name, lengths in (("prompt", columns.num_prompt_tokens), ("output", columns.num_output_tokens)):
        for percentile, value in zip((50, 90, 99), np.percentile(lengths, (50, 90, 99)).tolist(), strict=True):
            measured[f"{name}_p{percentile}"] = float(value)
    sizes = [plan.config.num_gpu_blocks * plan.config.block_size for plan in plan_workers(scenario)]
    return {**measured, "tokens_per_second": tokens / span, "kv_tokens": float(sum(sizes))}


def _seen(records: Sequence[EvaluationRecord]) -> dict[str, float]:
    """What the comparator made of it: means over the seeds."""
    return {
        name: sum(float(record.summary[name] or 0.0) for record in records) / len(records)
        for name in ("preempted_share", "mean_held")
    }


def _worst(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of all cells and rivals, where the winner does least well."""
    rows = [(row["ratio"], cell["regime"], row["label"]) for cell in cells for row in cell["against"]]
    if not rows:
        return None
    ratio, regime, label = max(rows)
    return {"regime": regime, "label": label, "ratio": ratio}


def _envelope(measured: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Least and most of every measure over the cells that were won."""
    names = measured[0] if measured else {}
    return {
        name: [_rounded(min(m[name] for m in measured)), _rounded(max(m[name] for m in measured))] for name in names
    }


def _rounded(value: float) -> float:
    return value if value == 0 or not math.isfinite(value) else float(f"{value:.4g}")
