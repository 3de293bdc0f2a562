"""Scorecards: policies side by side on the same seeds of one scenario.

One task is one policy on one seed, alone in a fresh world; tasks may run in several processes, and the scorecard does
not depend on how many.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from designer.simulator.bounds import lower_bound
from designer.simulator.clairvoyant import CLAIRVOYANT, clairvoyant_policies
from designer.simulator.fleet import plan_workers
from designer.simulator.policies import PolicySource
from designer.simulator.scenario import Scenario
from designer.simulator.timeline import Timeline
from designer.simulator.workload import RequestColumns, draw_workload
from designer.simulator.world import simulate
from designer.statistics import Interval, PairedEffect, bootstrap_interval, holm, paired_effect
from policies.loader import LoadedPolicy, PolicySpec, load_policies, parse_specs

BASELINES = ("random", "round_robin", "least_waiting", "least_loaded")
COMPARATOR = "least_loaded"
_AHEAD = 4
"""Tasks handed to each process in advance: enough to keep it busy, few enough to stop soon after an error."""


class EvaluationError(Exception):
    """An evaluation that cannot be done; one line."""


@dataclass(frozen=True, slots=True)
class PolicyScore:
    """One policy on every seed."""

    spec: str
    identities: tuple[dict[str, Any], ...]
    """Name, hash, parameters and slots of each module of the set."""
    summaries: tuple[dict[str, Any], ...]
    """``SimulationResult.summary`` and ``Timeline.summary`` of each seed, in the order of the scorecard's seeds."""

    @property
    def values(self) -> tuple[float, ...]:
        """The objective, seed by seed."""
        return tuple(summary["objective"] for summary in self.summaries)

    def mean(self, key: str) -> float | None:
        """Mean over seeds of one entry of the summaries; None if a seed has none."""
        values = [summary[key] for summary in self.summaries]
        return None if any(value is None for value in values) else sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Scorecard:
    """Policies in the order given, all on the same seeds."""

    scenario: str
    scenario_digest: str
    metric: str
    seeds: tuple[int, ...]
    comparator: str
    scores: tuple[PolicyScore, ...]
    cpu_seconds: float = field(default=0.0, compare=False)
    """CPU time of all simulations together; in no report, as it differs from run to run."""
    reference: PolicyScore | None = None
    """The clairvoyant on the same seeds; its summaries have a ``lower_bound`` and a ``lower_bound_solo``."""

    def score(self, spec: str) -> PolicyScore:
        return next(score for score in self.scores if score.spec == spec)

    def effect(self, spec: str, reference: str | None = None) -> PairedEffect:
        """Of a policy against another of the card; the comparator by default. Below 1 is better."""
        return paired_effect(self.score(spec).values, self.score(reference or self.comparator).values)

    def interval(self, spec: str, confidence: float = 0.90) -> Interval:
        """Bootstrap interval of the mean objective over seeds."""
        return bootstrap_interval(self.score(spec).values, confidence)

    def adjusted_p_values(self) -> dict[str, float]:
        """Holm-adjusted over every policy but the comparator."""
        others = [score.spec for score in self.scores if score.spec != self.comparator]
        return dict(zip(others, holm([self.effect(spec).p_value for spec in others]), strict=True))

    def share_won(self, spec: str) -> float | None:
        """Of what the clairvoyant wins over the comparator, by the means over seeds; None without a reference, or if
        the clairvoyant wins nothing. Above 1: better than the clairvoyant, which is no optimum."""
        return None if self.reference is None else self._share(spec, _average(self.reference.values))

    def bound(self, spec: str) -> float | None:
        """The proven lower bound (``designer.simulator.bounds``) for this policy; of the mean response time alone.

        One that left requests unanswered has only the weaker bound, which no shedding can break.
        """
        if self.reference is None or self.metric != "mean_response_time":
            return None
        served = all(summary["num_completed"] == summary["num_requests"] for summary in self.score(spec).summaries)
        return self.reference.mean("lower_bound" if served else "lower_bound_solo")

    def share_of_bound(self, spec: str) -> float | None:
        """Of what lies between the comparator and the bound: nobody can win more, and maybe nobody this much."""
        bound = self.bound(spec)
        return None if bound is None else self._share(spec, bound)

    def _share(self, spec: str, best: float) -> float | None:
        base = _average(self.score(self.comparator).values)
        return (base - _average(self.score(spec).values)) / (base - best) if base > best else None

    @property
    def num_requests(self) -> int:
        """Simulated in all."""
        scores = [*self.scores, *([] if self.reference is None else [self.reference])]
        return sum(summary["num_requests"] for score in scores for summary in score.summaries)


@dataclass(frozen=True, slots=True)
class _Task:
    policy: int
    seed: int
    specs: tuple[PolicySpec, ...]
    """Empty: the clairvoyant."""
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class _Done:
    policy: int
    seed: int
    summary: dict[str, Any]
    cpu_seconds: float


def evaluate(
    specs: Sequence[str],
    scenario: Scenario,
    seeds: Sequence[int],
    *,
    comparator: str = COMPARATOR,
    reference: bool = False,
    jobs: int = 1,
    on_done: Callable[[], None] | None = None,
) -> Scorecard:
    """Every policy of ``specs``, and the comparator, on every seed.

    Args:
        reference: run the clairvoyant too, and work out the lower bound.
        jobs: processes; 1 runs everything in this one. ``on_done`` is called after each simulation.

    Raises:
        EvaluationError: no seed, a seed twice, or a process that died.
        PolicyLoadError, ScenarioError, TraceError, ProfileError: bad input.
    """
    _need_each_once(seeds)
    names = list(dict.fromkeys([*specs, comparator]))
    loaded = [_load(name) for name in names]
    pinned = [specs for specs, _ in loaded] + ([()] if reference else [])
    tasks = [_Task(index, seed, specs, scenario) for seed in seeds for index, specs in enumerate(pinned)]
    done = {(result.policy, result.seed): result for result in _run(tasks, jobs, on_done)}

    def score(name: str, index: int, policies: Sequence[LoadedPolicy]) -> PolicyScore:
        return PolicyScore(name, _identities(policies), tuple(done[index, seed].summary for seed in seeds))

    return Scorecard(
        scenario=scenario.name,
        scenario_digest=scenario.digest,
        metric=scenario.objective.metric,
        seeds=tuple(seeds),
        comparator=comparator,
        scores=tuple(score(name, index, loaded[index][1]) for index, name in enumerate(names)),
        cpu_seconds=sum(result.cpu_seconds for result in done.values()),
        reference=score(CLAIRVOYANT, len(names), ()) if reference else None,
    )


def _need_each_once(seeds: Sequence[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds):
        raise EvaluationError("an evaluation needs seeds, each once")


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _load(text: str) -> tuple[tuple[PolicySpec, ...], tuple[LoadedPolicy, ...]]:
    """The specs with the hashes of what they name at this moment, so that every seed runs the same bytes."""
    specs = parse_specs(text)
    loaded = load_policies(specs, seed=0)
    pinned = [replace(spec, expected_hash=policy.policy_hash) for spec, policy in zip(specs, loaded, strict=True)]
    return tuple(pinned), loaded


def _identities(loaded: Sequence[LoadedPolicy]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "name": policy.name,
            "policy_hash": policy.policy_hash,
            "params": dict(policy.params),
            "slots": list(policy.slots),
        }
        for policy in loaded
    )


def _run(tasks: Sequence[_Task], jobs: int, on_done: Callable[[], None] | None) -> Iterator[_Done]:
    results = map(_simulate, tasks) if jobs <= 1 else _run_in_processes(tasks, jobs)
    for result in results:
        if on_done is not None:
            on_done()
        yield result


def _simulate(task: _Task) -> _Done:
    started = time.process_time()
    columns, timeline = draw_workload(task.scenario, task.seed), Timeline()
    policies: PolicySource = task.specs or clairvoyant_policies(columns)
    result = simulate(task.scenario, policies, task.seed, workload=columns, sink=timeline)
    summary = result.summary() | timeline.summary()
    if not task.specs:
        summary |= _bounds(task.scenario, columns)
    return _Done(task.policy, task.seed, summary, time.process_time() - started)


def _bounds(scenario: Scenario, columns: RequestColumns) -> dict[str, float]:
    bound = lower_bound(scenario, columns, plan_workers(scenario))
    return {"lower_bound": bound.mean_response_time, "lower_bound_solo": bound.solo}


def _run_in_processes(tasks: Sequence[_Task], jobs: int) -> Iterator[_Done]:
    """In order of completion. Fresh interpreters: a fork would copy the threads' locks of a terminal's progress bar."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = iter(tasks)
        running: set[Future[_Done]] = set()
        try:
            while True:
                while len(running) < jobs * _AHEAD and (task := next(waiting, None)) is not None:
                    running.add(pool.submit(_simulate, task))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        finally:
            pool.shutdown(cancel_futures=True)
