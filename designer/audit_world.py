"""What the audit asks of the simulator and of the seeds, each question tried on something planted as well.

A check that cannot fail shows nothing: so each is made twice, on what is there, which must pass, and on the same with
a fault planted, which must not.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from designer.foresight import foresight
from designer.ledger import seed_of
from designer.simulator.clairvoyant import clairvoyant_policies
from designer.simulator.draws import Floats, Ints
from designer.simulator.fleet import plan_workers
from designer.simulator.invariants import InvariantViolation
from designer.simulator.policies import make_policy_set
from designer.simulator.records import RequestRecord
from designer.simulator.scenario import Scenario, SyntheticWorkload
from designer.simulator.worker import SimulatedWorker
from designer.simulator.workload import RequestColumns, draw_workload
from designer.simulator.world import World

HONEST = ("least_tokens+shortest_prompt_first", "joint/head_room")
_NUM_SEEDS = 40
_NUM_PERMUTATIONS = 2000
_UNLIKELY = 0.001
"""Below this p the splits are taken to differ."""
_FAR = 4.0
"""Standard errors of a rank correlation."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question, its answer here, and its answer where a fault was planted."""

    name: str
    found: str
    """What is wrong; empty: nothing is."""
    planted: str
    """What was found where a fault was planted; empty: it slipped."""
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.found and bool(self.planted)


def check_world(scenarios: Sequence[Scenario], key: str = "audit") -> Iterator[Check]:
    """Every question, of every scenario that it can be asked of.

    Args:
        key: stands for a run's secret, by which sealed seeds are drawn.
    """
    for scenario in scenarios:
        if _draws_max_tokens(scenario):
            yield _timed(f"{scenario.name}: max_tokens tells no length", partial(lengths_told, scenario))
        yield _timed(f"{scenario.name}: no seed tells its split", partial(split_told, scenario, key))
        yield _timed(f"{scenario.name}: the contract shows no future", partial(future_told, scenario))
    for fault in FAULTS:
        yield _timed(f"{scenarios[0].name}: a world that {fault} is stopped", partial(fault_told, scenarios[0], fault))


def _timed(name: str, ask: Callable[[bool], str]) -> Check:
    started = time.monotonic()
    found, planted = ask(False), ask(True)
    return Check(name, found, planted, time.monotonic() - started)


def _draws_max_tokens(scenario: Scenario) -> bool:
    workload = scenario.workload
    return isinstance(workload, SyntheticWorkload) and workload.max_tokens is not None


def lengths_told(scenario: Scenario, planted: bool, num_seeds: int = 5) -> str:
    """Rank correlation of ``max_tokens`` with the length before it is cut; planted: clients that know the length."""
    limits, lengths = list[Ints](), list[Ints]()
    for seed in range(num_seeds):
        columns = draw_workload(_uncut(scenario), seed)
        given = columns.max_tokens > 0
        limit = columns.num_output_tokens * 2 if planted else columns.max_tokens
        limits.append(limit[given])
        lengths.append(columns.num_output_tokens[given])
    every = np.concatenate(limits)
    correlation = float(spearmanr(every, np.concatenate(lengths)).statistic)
    away = abs(correlation) * math.sqrt(len(every) - 1)
    return f"rank correlation {correlation:.3f}, {away:.1f} standard errors" if away > _FAR else ""


def _uncut(scenario: Scenario) -> Scenario:
    """The same draws with bounds too large to cut anything."""
    workload: Any = scenario.workload
    larger = workload.max_tokens.model_copy(update={"values": [1000 * value for value in workload.max_tokens.values]})
    return scenario.model_copy(update={"workload": workload.model_copy(update={"max_tokens": larger})})


def split_told(scenario: Scenario, key: str, planted: bool) -> str:
    """Whether anything a policy sees differs between train and sealed seeds; planted: sealed traffic a third denser."""
    train = [seed_of("1", "train", n) for n in range(_NUM_SEEDS)]
    sealed = [seed_of(key, "sealed", n, "a frozen hash") for n in range(_NUM_SEEDS)]
    ours = np.array([_seen(draw_workload(scenario, seed), seed) for seed in train])
    theirs = np.array([_seen(_denser(draw_workload(scenario, seed), planted), seed) for seed in sealed])
    p_value = _permutation_p(ours, theirs)
    return f"what is seen differs between the splits, p {p_value:.4f}" if p_value < _UNLIKELY else ""


def _seen(columns: RequestColumns, seed: int) -> list[float]:
    """In figures, what a policy could tell seeds apart by: requests, their times and sizes, and its own generator."""
    gaps = np.log1p(np.diff(columns.arrival_ps) / 1e9)
    sizes, outputs = np.log(columns.num_prompt_bytes), np.log(columns.num_output_tokens)
    rng = random.Random(f"{seed}/0/0")
    spreads = [f for values in (gaps, sizes, outputs) for f in (float(values.mean()), float(values.std()))]
    firsts = [float(gaps[0]), float(sizes[0]), rng.random(), rng.random()]
    return [float(len(columns)), float(columns.stream.mean()), *spreads, *firsts]


def _denser(columns: RequestColumns, planted: bool) -> RequestColumns:
    return replace(columns, arrival_ps=columns.arrival_ps * 3 // 4) if planted else columns


def _permutation_p(ours: Floats, theirs: Floats) -> float:
    """Of the largest difference of means in any figure, in standard deviations, over reshuffled labels."""
    both = np.concatenate([ours, theirs])
    spread = both.std(axis=0)
    both = (both[:, spread > 0] - both.mean(axis=0)[spread > 0]) / spread[spread > 0]
    labels = np.repeat([1.0, -1.0], [len(ours), len(theirs)])
    rng = np.random.default_rng(0)
    shuffled = np.array([rng.permutation(labels) for _ in range(_NUM_PERMUTATIONS)])
    seen = np.abs(labels @ both).max()
    return (1 + int((np.abs(shuffled @ both).max(axis=1) >= seen).sum())) / (1 + _NUM_PERMUTATIONS)


def future_told(scenario: Scenario, planted: bool, seed: int = 1) -> str:
    """Whether an honest policy decides by what is still to come; planted: the clairvoyant, which does."""
    columns, plans = draw_workload(scenario, seed), plan_workers(scenario)
    if planted:
        return foresight(scenario, lambda known: clairvoyant_policies(known), seed, columns, plans)
    seen = (foresight(scenario, partial(_same, spec), seed, columns, plans) for spec in HONEST)
    return next((text for text in seen if text), "")


def _same(spec: str, _: RequestColumns) -> str:
    return spec


class _Duplicating(World):
    def _dispatch(self, now: int, record: RequestRecord, worker: SimulatedWorker) -> None:
        super()._dispatch(now, record, worker)
        if record.request_id == "r3":
            super()._dispatch(now, record, worker)


class _Dropping(World):
    """Says that a request was answered, which never reached a worker."""

    def _dispatch(self, now: int, record: RequestRecord, worker: SimulatedWorker) -> None:
        if record.request_id == "r3":
            self.end(now, record, "completed")
        else:
            super()._dispatch(now, record, worker)


class _Shortening(World):
    """Has a worker make one token where more were asked for."""

    def _land(self, now: int, record: RequestRecord) -> None:
        if record.request_id == "r3":
            record.truth = replace(record.truth, num_output_tokens=1)
        super()._land(now, record)


FAULTS: dict[str, type[World]] = {
    "duplicates a request": _Duplicating,
    "drops a request": _Dropping,
    "cuts an answer short": _Shortening,
}


def fault_told(scenario: Scenario, fault: str, planted: bool, seed: int = 1) -> str:
    """What stopped the run; empty when nothing did."""
    kind = FAULTS[fault] if planted else World
    world = kind(scenario, draw_workload(scenario, seed), make_policy_set("least_loaded+fcfs", seed))
    try:
        world.run()
        world.result(seed)
    except InvariantViolation as violation:
        return str(violation)
    return ""
