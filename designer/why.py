"""Why a winner wins, by intervention: what is left of its gain when one thing is taken away from both policies.

What a request's time went into is measured, not guessed (``designer.simulator.breakdown``). Then single things are
changed, in the machines, in the load, or in the winner itself, whose routing and order can each be given to the
comparator. What could be won at all is told by the clairvoyant reference and the lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from designer.grid import Regime, apply
from designer.ledger import Ledger, seed_of
from designer.sandbox import Evaluation, Sandbox, Task
from designer.simulator.bounds import lower_bound
from designer.simulator.breakdown import PARTS
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from designer.subject import Subject, subject_of_specs
from policies.contract import Slot

_MORE_MEMORY = 50.0
_LESS_LOAD = 0.5
_WORDS = {
    "held": "waiting in the gateway",
    "network": "the network",
    "queued": "waiting in the engines",
    "prefill": "prefill",
    "decode": "decoding",
    "recompute": "computing again what was preempted",
    "lost": "requests without a full answer",
}


class WhyError(Exception):
    """There is nothing to explain, or it cannot be simulated; one line."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """One thing changed."""

    without: str
    scenario: Scenario
    winner: Subject
    comparator: Subject


def explain(
    ledger: Ledger, *, num_seeds: int = 4, jobs: int = 2, on_done: Callable[[str], None] = lambda _: None
) -> Any:
    """Run the interventions, write what they show to the ledger, once; what was written.

    Raises:
        WhyError: the run has no winner, or one of the runs failed.
    """
    frozen, run = ledger.frozen(), ledger.run()
    if frozen is None:
        raise WhyError(f"{ledger.path}: the run has no winner to explain")
    if (known := ledger.result("why")) is not None:
        return known
    scenario = Scenario.model_validate_json(run.scenario)
    winner, comparator = ledger.subject(frozen.digest), ledger.subject(frozen.comparator)
    seeds = [seed_of(run.secret, "validation", n) for n in range(num_seeds)]
    base = Intervention("nothing", scenario, winner, comparator)
    rows, parts = list[dict[str, Any]](), list[dict[str, Any]]()
    for step in [base, *interventions(base)]:
        with Sandbox(step.scenario, jobs=jobs) as sandbox:
            pair = [_mean_of(sandbox, subject, seeds) for subject in (step.comparator, step.winner)]
        rows.append(_row(step.without, pair[0], pair[1], rows))
        if step is base:
            labels = (comparator.label, "the winner")
            parts = [{"policy": label, "parts": mean["parts"]} for label, mean in zip(labels, pair, strict=True)]
        on_done(step.without)
    content = {
        "seeds": num_seeds,
        "policies": parts,
        "interventions": rows,
        "winnable": _winnable(scenario, seeds, rows[0]),
        "traffic": list(traffic(scenario, seeds[0])),
        "sentence": sentence(parts[0]["parts"], parts[1]["parts"], rows),
    }
    ledger.add_result("why", content)
    return content


def interventions(base: Intervention) -> Iterator[Intervention]:
    """What is taken away, one at a time."""
    yield replace(base, without="the shortage of KV memory", scenario=apply(base.scenario, Regime(kv=_MORE_MEMORY)))
    yield replace(base, without="half of the load", scenario=apply(base.scenario, Regime(load=_LESS_LOAD)))
    if base.winner.parts[0].slots is None and len(base.winner.parts) == 1:
        order, routing = _only(base.winner, "scheduling", "least_loaded"), _only(base.winner, "routing", "fcfs")
        yield replace(base, without="the winner's routing", winner=order)
        yield replace(base, without="the winner's order", winner=routing)


def _only(winner: Subject, slot: Slot, other: str) -> Subject:
    """One slot of the winner, the default in the other."""
    part = replace(winner.parts[0], slots=(slot,))
    return Subject(f"{slot} of the winner, {other}", (part, *subject_of_specs(other).parts))


def _mean_of(sandbox: Sandbox, subject: Subject, seeds: Sequence[int]) -> dict[str, Any]:
    done = sandbox.run([Task(subject, seed) for seed in seeds])
    return {
        "score": sum(map(_score, done)) / len(done),
        "parts": {part: sum(e.summary["mean_parts"][part] for e in done) / len(done) for part in PARTS},
    }


def _score(evaluation: Evaluation) -> float:
    if evaluation.score is None:
        raise WhyError(f"{evaluation.task.subject.label}: {evaluation.reason}")
    return evaluation.score


def _row(
    without: str, comparator: dict[str, Any], winner: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    gain = comparator["score"] - winner["score"]
    whole = rows[0]["gain"] if rows else gain
    share = gain / whole if whole else 0.0
    return {
        "without": without,
        "comparator": comparator["score"],
        "winner": winner["score"],
        "gain": gain,
        "share": share,
    }


def _winnable(scenario: Scenario, seeds: Sequence[int], whole: dict[str, Any]) -> dict[str, float] | None:
    """None where the metric is not the mean response time, of which alone the bound speaks."""
    if scenario.objective.metric != "mean_response_time":
        return None
    plans, best, bound = plan_workers(scenario), 0.0, 0.0
    for seed in seeds:
        columns = draw_workload(scenario, seed)
        told = simulate(scenario, clairvoyant_policies(columns), seed, workload=columns, plans=plans)
        best += told.mean_response_time / len(seeds)
        bound += lower_bound(scenario, columns, plans).mean_response_time / len(seeds)
    room = whole["comparator"] - best
    return {"clairvoyant": best, "bound": bound, "share": whole["gain"] / room if room > 0 else 1.0}


def sentence(before: dict[str, float], after: dict[str, float], rows: Sequence[dict[str, Any]]) -> str:
    """Where the gain came from, and which intervention takes most of it away."""
    gains = sorted(((before[part] - after[part], part) for part in before), reverse=True)
    won = [f"{gain:.2f} s from {_WORDS[part]}" for gain, part in gains if gain > 0.02 * abs(rows[0]["gain"])]
    paid = [
        f"{-gain:.2f} s more for {_WORDS[part]}" for gain, part in gains[::-1] if -gain > 0.02 * abs(rows[0]["gain"])
    ]
    least = min(rows[1:], key=lambda row: row["share"])
    text = f"Of a mean request's time it saves {', '.join(won) or 'nothing'}"
    text += f", and spends {', '.join(paid)}" if paid else ""
    return f"{text}. Without {least['without']}, {max(0.0, least['share']):.0%} of its gain is left."


def traffic(scenario: Scenario, seed: int) -> Iterator[str]:
    """What in this traffic there is to be won from, in figures."""
    columns = draw_workload(scenario, seed)
    prompts, outputs = columns.num_prompt_tokens, columns.num_output_tokens
    tenth = max(1, len(prompts) // 10)
    heavy = float(np.sort(prompts)[-tenth:].sum() / prompts.sum())
    yield f"{len(columns)} requests; the longest tenth of the prompts holds {heavy:.0%} of all prompt tokens."
    for name, lengths in (("Prompts", prompts), ("Answers", outputs)):
        p50, p99 = np.percentile(lengths, [50, 99])
        yield f"{name}: median {p50:,.0f} tokens, 99th percentile {p99:,.0f}, {p99 / p50:.0f} times as many."
    gaps = np.diff(columns.arrival_ps).astype(float)
    yield f"Arrivals: the spread of the gaps is {gaps.std() / gaps.mean():.1f} times their mean (1 is Poisson's)."
    room = sum(plan.config.num_gpu_blocks * plan.config.block_size for plan in plan_workers(scenario))
    yield f"All workers' KV caches together hold {room / float((prompts + outputs).mean()):.0f} mean requests."
