"""Why a winner wins, by intervention: how much of its gain is left when one thing is taken away from both policies.

Every figure is of pairs of runs, winner and comparator on the same seeds, which nothing else in the run has used; both
are scored as in the sealed test. The gain is the mean over seeds of ``ln(comparator / winner)``; what an intervention
takes away is its share ``(gain - gain there) / gain``, with Fieller's interval. Interventions overlap, so their shares
need not add up to what all of them together take away; the difference is written down as their interaction.

Beside them: where the time of a request went under both policies, and how much was won of what could be won. That is
told by two figures of different kinds. The clairvoyant reference is a schedule that was in fact run, by a policy that
is told the true lengths: it can be reached by who knows them, it is no optimum, and a policy may beat it. The lower
bound is proven, for this fleet and engine model and these requests, for every policy that answers all of them; for one
that leaves some unanswered only a weaker one is.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from designer.evaluations import Evaluator, Job
from designer.executor import Executor, Runner, elsewhere
from designer.interventions import Intervention, NotApplicable, interventions
from designer.ledger import EvaluationRecord, Ledger, seed_of
from designer.sealed import tier_of
from designer.simulator.bounds import lower_bound
from designer.simulator.breakdown import PARTS
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.draws import Floats
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from designer.statistics import Interval, ratio_interval, t_interval
from designer.subject import Subject
from designer.traffic import seen_by, told, traffic

SEEDS = 8
MOST_INTERVENTIONS = 15
"""Six mechanisms and all of them together, four of the traffic, four slots of the winner."""
WORDS = {
    "held": "held in the gateway",
    "network": "on the network",
    "queued": "queued in the engines",
    "prefill": "in prefill",
    "decode": "decoding",
    "recompute": "computing again what was preempted",
    "lost": "in requests without a full answer",
}


class WhyError(Exception):
    """There is nothing to explain, or it cannot be simulated; one line."""


def most_simulations(num_seeds: int) -> int:
    """What an explanation can cost, the clairvoyant's runs included."""
    return num_seeds * (2 * (MOST_INTERVENTIONS + 1) + 1)


def stored(ledger: Ledger, num_seeds: int | None = None) -> Mapping[str, Any] | None:
    """The explanation on so many seeds; None as their number: the one on the most."""
    found, number = list[Mapping[str, Any]](), 1
    while (content := ledger.result(f"why {number}")) is not None:
        found.append(content)
        number += 1
    fitting = [content for content in found if num_seeds in (None, content["seeds"])]
    return max(fitting, key=lambda content: int(content["seeds"]), default=None)


def explain(
    ledger: Ledger,
    executor: Executor,
    *,
    num_seeds: int = SEEDS,
    deadline_seconds: float = 300.0,
    on_done: Callable[[str], None] = lambda _: None,
) -> Mapping[str, Any]:
    """Run the interventions and write what they show to the ledger, once for a number of seeds; what was written.

    The first seeds are the same whatever their number, and what was simulated on them is not simulated again.

    Raises:
        WhyError: the run has no winner, or winner or comparator fail as things are.
    """
    frozen, run = ledger.frozen(), ledger.run()
    if frozen is None:
        raise WhyError(f"{ledger.path}: the run has no winner to explain")
    if (known := stored(ledger, num_seeds)) is not None:
        return known
    scenario = Scenario.model_validate_json(run.scenario)
    winner, comparator = ledger.subject(frozen.digest), ledger.subject(frozen.comparator)
    seeds = [seed_of(run.secret, "why", n, frozen.digest) for n in range(num_seeds)]
    base = Intervention("nothing", "none", "as it is", scenario, winner, comparator)
    with executor.at(scenario, deadline_seconds) as runner:
        pairs = _Pairs(ledger, executor, runner, seeds, deadline_seconds)
        content = _found(base, pairs, executor.jobs, on_done)
    content["comparator_label"] = _label(ledger, comparator)
    ledger.add_result(f"why {_next_number(ledger)}", content)
    return content


def _next_number(ledger: Ledger) -> int:
    number = 1
    while ledger.result(f"why {number}") is not None:
        number += 1
    return number


def _label(ledger: Ledger, comparator: Subject) -> str:
    """The name it was found under."""
    validation = ledger.result("validation") or {}
    return str(validation.get("comparator_label", comparator.label))


# -- pairs of runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both policies on all seeds, in the order of the seeds."""

    winner: Sequence[EvaluationRecord]
    comparator: Sequence[EvaluationRecord]

    @property
    def failure(self) -> str:
        failed = (r for r in (*self.winner, *self.comparator) if r.score is None)
        return next((r.reason or "no score" for r in failed), "")

    @property
    def gains(self) -> Floats:
        """``ln(comparator / winner)`` by seed; above 0 the winner is better."""
        return np.log(_scores(self.comparator) / _scores(self.winner))


def _scores(records: Sequence[EvaluationRecord]) -> Floats:
    return np.array([record.score for record in records], dtype=np.float64)


class _Pairs:
    """Runs interventions, each on the same seeds."""

    def __init__(
        self, ledger: Ledger, executor: Executor, runner: Runner, seeds: Sequence[int], deadline_seconds: float
    ) -> None:
        self.seeds = seeds
        self._ledger = ledger
        self._executor = executor
        self._runner = runner
        self._deadline_seconds = deadline_seconds

    def run(self, step: Intervention) -> _Pair:
        with elsewhere(self._executor, self._runner, step.scenario, self._deadline_seconds) as runner:
            evaluator = Evaluator(self._ledger, runner, step.scenario.digest)
            subjects = (step.winner, step.comparator)
            jobs = [Job(subject, seed, tier_of(subject)) for seed in self.seeds for subject in subjects]
            records = evaluator.run("why", jobs)
        return _Pair(records[::2], records[1::2])


# -- what they show --------------------------------------------------------------------------------------------------


def _found(base: Intervention, pairs: _Pairs, jobs: int, on_done: Callable[[str], None]) -> dict[str, Any]:
    whole = pairs.run(base)
    if whole.failure:
        raise WhyError(f"{whole.failure}")
    on_done(base.without)
    rows, out = [_row(base, whole, whole)], list[dict[str, str]]()
    for step in interventions(base):
        if isinstance(step, NotApplicable):
            out.append({"without": step.without, "reason": step.reason})
            continue
        rows.append(_row(step, pairs.run(step), whole))
        on_done(step.without)
    summaries = {"the comparator": whole.comparator, "the winner": whole.winner}
    seen = {name: seen_by([record.summary for record in records]) for name, records in summaries.items()}
    figures, parts = traffic(base.scenario, pairs.seeds), _parts(whole)
    taken = {row["without"]: _taken_words(row) for row in rows[1:]}
    return {
        "seeds": len(pairs.seeds),
        "metric": base.scenario.objective.metric,
        "parts": parts,
        "interventions": rows,
        "not_applicable": out,
        "overlap": _overlap(rows),
        "winnable": _winnable(base.scenario, pairs.seeds, whole, jobs),
        "figures": {**figures, "seen": seen},
        "traffic": told(figures, seen, taken),
        "sentence": sentence(rows, parts),
    }


def _row(step: Intervention, pair: _Pair, whole: _Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"without": step.without, "kind": step.kind, "how": step.how}
    if pair.failure:
        return {**row, "failure": pair.failure}
    gains, removed = pair.gains, whole.gains - pair.gains
    within = t_interval(-gains).exp()
    row |= {
        "comparator": float(_scores(pair.comparator).mean()),
        "winner": float(_scores(pair.winner).mean()),
        "ratio": math.exp(-float(gains.mean())),
        "t_interval": _ends(within),
        "taken": None,
        "taken_interval": None,
    }
    share = ratio_interval(removed, whole.gains)
    if float(whole.gains.mean()) > 0 and not math.isnan(share.low):
        row |= {"taken": float(removed.mean() / whole.gains.mean()), "taken_interval": _ends(share)}
    return row


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else [interval.low, interval.high]


def _parts(whole: _Pair) -> list[dict[str, Any]]:
    """Mean seconds of a request by where they went, and what the winner saves of each, paired."""
    rows = []
    for part in PARTS:
        before, after = (_part(records, part) for records in (whole.comparator, whole.winner))
        saved = before - after
        row: dict[str, Any] = {"part": part, "comparator": float(before.mean()), "winner": float(after.mean())}
        rows.append({**row, "saved": float(saved.mean()), "interval": _ends(t_interval(saved))})
    return rows


def _part(records: Sequence[EvaluationRecord], part: str) -> Floats:
    return np.array([float(record.summary["mean_parts"][part]) for record in records])


def _overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """What the mechanisms take away one by one, and all together; the difference is their interaction."""
    one_by_one = [row.get("taken") for row in rows if row["kind"] == "mechanism"]
    together = next((row.get("taken") for row in rows if row["kind"] == "all"), None)
    known = [share for share in one_by_one if share is not None]
    if together is None or len(known) < len(one_by_one):
        return None
    total = sum(known)
    return {"one_by_one": total, "together": together, "interaction": together - total, "left": 1.0 - together}


# -- what could be won -----------------------------------------------------------------------------------------------


def _winnable(scenario: Scenario, seeds: Sequence[int], whole: _Pair, jobs: int) -> dict[str, Any]:
    if scenario.objective.metric != "mean_response_time":
        reason = (
            "the clairvoyant reference and the lower bound are about the mean response time, and about nothing else"
        )
        return {"reason": reason}
    references = _references(scenario, seeds, jobs)
    answered = all(r.summary["num_completed"] == r.summary["num_requests"] for r in whole.winner)
    best, bound = np.array([one[0] for one in references]), np.array([one[1 if answered else 2] for one in references])
    before, after = _scores(whole.comparator), _scores(whole.winner)
    return {
        "clairvoyant": float(best.mean()),
        "bound": float(bound.mean()),
        "bound_is_for": "policies that answer every request"
        if answered
        else "any policy, whatever it leaves unanswered",
        "simulations": len(seeds),
        **_won("share", before - after, before - best),
        **_won("share_of_bound", before - after, before - bound),
    }


def _won(name: str, won: Floats, room: Floats) -> dict[str, Any]:
    """None where there was nothing to be won."""
    share = float(won.mean() / room.mean()) if room.mean() > 0 else None
    return {name: share, f"{name}_interval": None if share is None else _ends(ratio_interval(won, room))}


def _references(scenario: Scenario, seeds: Sequence[int], jobs: int) -> list[tuple[float, float, float]]:
    if jobs == 1:
        return [_reference(scenario, seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=context) as pool:
        return list(pool.map(_reference, [scenario] * len(seeds), seeds))


def _reference(scenario: Scenario, seed: int) -> tuple[float, float, float]:
    """Of one seed: the clairvoyant's mean, the bound for policies that answer all, and the one for any."""
    columns, plans = draw_workload(scenario, seed), plan_workers(scenario)
    best = simulate(scenario, clairvoyant_policies(columns), seed, workload=columns, plans=plans)
    bound = lower_bound(scenario, columns, plans)
    return best.mean_response_time, bound.mean_response_time, bound.solo


# -- in words --------------------------------------------------------------------------------------------------------


def sentence(rows: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]) -> str:
    """How much is won, from which parts of a request's time, and on what it hangs, in figures."""
    whole = rows[0]
    low, high = whole["t_interval"] or (math.nan, math.nan)
    text = f"On fresh seeds its metric is {whole['ratio']:.3f} [{low:.3f}, {high:.3f}] of the comparator's. "
    clear = sorted(filter(_is_clear, parts), key=lambda row: -row["saved"])
    won = [f"{row['saved']:.2f} s {WORDS[row['part']]}" for row in clear if row["saved"] > 0]
    paid = [f"{-row['saved']:.2f} s more {WORDS[row['part']]}" for row in reversed(clear) if row["saved"] < 0]
    text += (
        f"A mean request spends {', '.join(won)} less" if won else "A mean request saves no part of its time for sure"
    )
    text += f", and {', '.join(paid)}. " if paid else ". "
    known = [
        row for row in rows[1:] if row.get("taken") is not None and row["kind"] in ("mechanism", "traffic", "slot")
    ]
    if not known:
        return f"{text}The gain is not told from none on these seeds, so no part of it can be assigned."
    most = sorted(known, key=lambda row: -row["taken"])[:2]
    return text + " ".join(f"Without {row['without']} {_share(row)} of the gain is gone." for row in most)


def _is_clear(row: Mapping[str, Any]) -> bool:
    ends = row["interval"]
    return ends is not None and (ends[0] > 0 or ends[1] < 0) and abs(row["saved"]) >= 0.005


def _taken_words(row: Mapping[str, Any]) -> str:
    return "" if row.get("taken") is None else f" Without {row['without']} {_share(row)} of the gain is gone."


def _share(row: Mapping[str, Any]) -> str:
    low, high = row["taken_interval"]
    return f"{row['taken']:.0%} [{low:.0%}, {high:.0%}]"
