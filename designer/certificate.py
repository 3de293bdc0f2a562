"""Where a winner won: the same contest in regimes that were written down before any run, worst cell included.

Each cell says what a gateway would measure there, so that an operator can tell which cell is theirs. As there are many
cells, "won" is said at a simultaneous level: the chance that any cell in which the winner is in truth no better than
the comparator is called won is at most ``LEVEL`` (Holm's step-down over one-sided t tests of the log-ratio; a cell that
could not be scored counts as one that was not won). So it is for "lost".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from designer.evaluate import EvaluationError
from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.executor import Executor, elsewhere
from designer.grid import AS_IT_IS, POISSON, Regime, apply, regimes
from designer.ledger import EvaluationRecord, Ledger, seed_of
from designer.sealed import Scored, effect_json, effect_of, tier_of
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import PS_PER_SECOND, RequestColumns, draw_workload
from designer.statistics import holm, log_ratios, t_test_p
from designer.subject import Subject

REGIMES: tuple[Regime, ...] = (
    *regimes((0.8, 1.0, 1.3), (0.8, 1.0, 1.15), ((1.0, 1.0),), (AS_IT_IS,)),
    Regime(burstiness=POISSON),
    Regime(prompts=3.0),
    Regime(outputs=0.5),
)
"""KV budget x load, and from the middle one step each in burstiness, prompts and outputs."""
LEVEL = 0.05
"""Of all cells together."""
MEASURES: Mapping[str, str] = {
    "arrival_rate": "requests a second: the rate of ranvier_requests_total",
    "gap_cv": "standard deviation of the gaps between arrivals over their mean: the event log's arrivals",
    "prompt_p50": "tokens: vllm:request_prompt_tokens of the workers",
    "prompt_p90": "as prompt_p50",
    "prompt_p99": "as prompt_p50",
    "output_p50": "tokens: vllm:request_generation_tokens of the workers",
    "output_p90": "as output_p50",
    "output_p99": "as output_p50",
    "tokens_per_second": "prompt and output tokens a second: the rate of ranvier_tokens_total",
    "kv_tokens": "of all workers: num_gpu_blocks x block_size of vllm:cache_config_info, summed",
    "preemptions_per_request": "while the comparator routes: vllm:num_preemptions_total over ranvier_requests_total",
    "mean_held": "seconds, while the comparator routes: ranvier_request_queue_seconds, sum over count",
}
"""What a cell says of itself, and where a running gateway has the same figure."""


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
    with executor.at(scenario, deadline_seconds) as base:
        for regime in cells:
            try:
                there = apply(scenario, regime)
            except EvaluationError as error:
                failed.append({"regime": regime.name, "failure": str(error)})
                continue
            seeds = [seed_of(secret, "regime", n, regime.name) for n in range(seeds_per_cell)]
            with elsewhere(executor, base, there, deadline_seconds) as runner:
                records = _scores(Evaluator(ledger, runner, there.digest), [winner, *others], seeds)
            cell = _cell(regime, there, seeds, winner, others, records)
            (failed if "failure" in cell else found).append(cell)
    judged = _judged(found, len(failed))
    won_in = _envelope([cell["measured"] for cell in judged if cell["won"]])
    return {
        "seeds": seeds_per_cell,
        "level": LEVEL,
        "cells": judged,
        "worst": _worst(judged),
        "won_in": won_in,
        "within_and_not_won": [c["regime"] for c in judged if not c["won"] and _is_within(c["measured"], won_in)],
        "measures": dict(MEASURES),
        "failed": failed,
    }


def _judged(cells: Sequence[Mapping[str, Any]], num_failed: int) -> list[dict[str, Any]]:
    """With ``won`` and ``lost`` at the simultaneous level, and the adjusted p of each."""
    adjusted = {side: holm([*(cell["p"][side] for cell in cells), *[1.0] * num_failed]) for side in ("better", "worse")}
    return [
        {
            **{key: value for key, value in cell.items() if key != "p"},
            "adjusted_p": adjusted["better"][n],
            "won": adjusted["better"][n] < LEVEL,
            "lost": adjusted["worse"][n] < LEVEL,
        }
        for n, cell in enumerate(cells)
    ]


def _is_within(measured: Mapping[str, float], ranges: Mapping[str, Sequence[float]]) -> bool:
    """Whether a gateway there would find itself inside all of the ranges."""
    return bool(ranges) and all(low <= _rounded(measured[name]) <= high for name, (low, high) in ranges.items())


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
    seeds: Sequence[int],
    winner: Subject,
    others: Sequence[Subject],
    records: Mapping[str, list[EvaluationRecord]],
) -> dict[str, Any]:
    mine = Scored(winner, scores_by_seed(records[winner.digest]))
    failures = _failures([*records[winner.digest], *records[others[0].digest]])
    place = {key: getattr(regime, key) for key in ("kv", "load", "prompts", "outputs", "burstiness")}
    if failures:
        return {"regime": regime.name, **place, "failure": failures[0]}
    against = [
        {**effect_json(effect_of(mine, Scored(other, scores_by_seed(records[other.digest])))), **_names(other)}
        for other in others
        if not _failures(records[other.digest])
    ]
    return {
        "regime": regime.name,
        **place,
        "measured": {**_traffic(scenario, seeds), **_seen(records[others[0].digest])},
        "against": against,
        "without": [
            {**_names(other), "failure": failures[0]}
            for other in others
            if (failures := _failures(records[other.digest]))
        ],
        "p": _p_values(mine, Scored(others[0], scores_by_seed(records[others[0].digest]))),
    }


def _failures(records: Sequence[EvaluationRecord]) -> list[str]:
    return [record.reason for record in records if record.status == "failed"]


def _p_values(winner: Scored, comparator: Scored) -> dict[str, float]:
    """Unadjusted."""
    seeds = sorted(winner.scores.keys() & comparator.scores.keys())
    ratios = log_ratios([winner.scores[s] for s in seeds], [comparator.scores[s] for s in seeds])
    return {"better": t_test_p(ratios, "less"), "worse": t_test_p(ratios, "greater")}


def _names(other: Subject) -> dict[str, str]:
    return {"label": other.label, "digest": other.digest}


def _traffic(scenario: Scenario, seeds: Sequence[int]) -> dict[str, float]:
    """What the gateway counts at its door and in its answers, means over the seeds: rates, lengths, burstiness."""
    drawn = [_of_columns(draw_workload(scenario, seed)) for seed in seeds]
    sizes = [plan.config.num_gpu_blocks * plan.config.block_size for plan in plan_workers(scenario)]
    measured = {name: sum(one[name] for one in drawn) / len(drawn) for name in drawn[0]}
    return {**measured, "kv_tokens": float(sum(sizes))}


def _of_columns(columns: RequestColumns) -> dict[str, float]:
    arrivals = np.sort(np.asarray(columns.arrival_ps, dtype=np.float64)) / PS_PER_SECOND
    gaps = np.diff(arrivals)
    span = max(float(arrivals[-1] - arrivals[0]), 1e-9)
    tokens = float(columns.num_prompt_tokens.sum() + columns.num_output_tokens.sum())
    measured = {"arrival_rate": len(arrivals) / span, "gap_cv": float(gaps.std() / max(gaps.mean(), 1e-12))}
    for name, lengths in (("prompt", columns.num_prompt_tokens), ("output", columns.num_output_tokens)):
        for percentile, value in zip((50, 90, 99), np.percentile(lengths, (50, 90, 99)).tolist(), strict=True):
            measured[f"{name}_p{percentile}"] = float(value)
    return {**measured, "tokens_per_second": tokens / span}


def _seen(records: Sequence[EvaluationRecord]) -> dict[str, float]:
    """What the comparator made of it: means over the seeds."""
    met = [record.summary for record in records]
    preemptions = sum(one["num_preemptions"] for one in met) / max(1, sum(one["num_requests"] for one in met))
    return {
        "preemptions_per_request": float(preemptions),
        "mean_held": sum(float(one["mean_held"] or 0.0) for one in met) / len(met),
    }


def _worst(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of all cells and rivals, where the winner does least well."""
    rows = [(row["ratio"], cell["regime"], row["label"], row["digest"]) for cell in cells for row in cell["against"]]
    if not rows:
        return None
    ratio, regime, label, digest = max(rows)
    return {"regime": regime, "label": label, "ratio": ratio, "digest": digest}


def _envelope(measured: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Least and most of every measure over the cells that were won."""
    names = measured[0] if measured else {}
    return {
        name: [_rounded(min(m[name] for m in measured)), _rounded(max(m[name] for m in measured))] for name in names
    }


def _rounded(value: float) -> float:
    return value if value == 0 or not math.isfinite(value) else float(f"{value:.4g}")
