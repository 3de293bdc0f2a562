"""What is taken away, one thing at a time, from machines, traffic or a policy, to see how much of a gain hangs on it.

An intervention is a scenario, and for some another winner; both policies of a pair meet it alike, on the same seeds.
One that this scenario cannot be put to, or that could not change anything in it, is named with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import special

from designer.grid import POISSON, Regime, apply
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import Scenario, TraceWorkload
from designer.simulator.workload_tables import Lengths
from designer.subject import Part, Subject
from gateway.mockworker.engine import EngineConfig
from policies.contract import Slot
from policies.syntax import parse

Kind = Literal["none", "mechanism", "all", "traffic", "slot"]
_PLENTY = 50
"""Times the KV blocks and the seats: enough that neither ever runs out."""
_QUANTILES = 4096
SLOT_METHODS: dict[Slot, frozenset[str]] = {
    "routing": frozenset({"route"}),
    "scheduling": frozenset({"admit", "key"}),
    "autoscaling": frozenset({"desired_replicas"}),
    "batch": frozenset({"waiting_key", "victim_key", "prefill_budget"}),
}


@dataclass(frozen=True, slots=True)
class Intervention:
    """One thing changed."""

    without: str
    kind: Kind
    how: str
    """What was done to take it away."""
    scenario: Scenario
    winner: Subject
    comparator: Subject


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """One thing that could not be taken away."""

    without: str
    reason: str


def interventions(base: Intervention) -> Iterator[Intervention | NotApplicable]:
    """Those of the mechanisms, all of them at once, those of the traffic, those of the winner's slots."""
    mechanisms = list(_mechanisms(base))
    yield from mechanisms
    yield _all_at_once(base, [step for step in mechanisms if isinstance(step, Intervention)])
    yield from _of_traffic(base)
    yield from _of_slots(base)


# -- mechanisms ------------------------------------------------------------------------------------------------------


def _mechanisms(base: Intervention) -> Iterator[Intervention | NotApplicable]:
    for without, how, change in _CHANGES:
        yield replace(base, without=without, kind="mechanism", how=how, scenario=change(base.scenario))
    if reason := _nothing_to_hit(base.scenario):
        yield NotApplicable("prefix-cache hits", reason)
    else:
        how = "the engines' prefix caches are off"
        yield replace(base, without="prefix-cache hits", kind="mechanism", how=how, scenario=_no_hits(base.scenario))
    if any(workers.max_replicas is not None for workers in base.scenario.workers):
        how = "a replica serves as soon as it is asked for"
        yield replace(base, without="cold starts", kind="mechanism", how=how, scenario=_warm(base.scenario))
    else:
        yield NotApplicable("cold starts", "the number of workers is fixed")


def _all_at_once(base: Intervention, steps: list[Intervention]) -> Intervention:
    scenario = base.scenario
    for step in steps:
        scenario = _CHANGE_OF[step.without](scenario)
    how = "every mechanism above is taken away at the same time"
    return replace(base, without="all of these", kind="all", how=how, scenario=scenario)


def _no_holding(scenario: Scenario) -> Scenario:
    return _otherwise(scenario, holding=False)


def _free_prefill(scenario: Scenario) -> Scenario:
    return _otherwise(scenario, free_prefill=True)


def _otherwise(scenario: Scenario, **changes: bool) -> Scenario:
    return scenario.model_copy(update={"counterfactual": scenario.counterfactual.model_copy(update=changes)})


def _plenty(scenario: Scenario) -> Scenario:
    return _engines(
        scenario,
        lambda config: {
            "num_gpu_blocks": config.num_gpu_blocks * _PLENTY,
            "max_num_seqs": config.max_num_seqs * _PLENTY,
            "max_model_len": config.max_request_tokens,  # what was too long for a worker stays so
        },
    )


def _free_recompute(scenario: Scenario) -> Scenario:
    return _engines(scenario, lambda _: {"restore_preempted": True})


def _no_hits(scenario: Scenario) -> Scenario:
    return _engines(scenario, lambda _: {"enable_prefix_caching": False})


def _warm(scenario: Scenario) -> Scenario:
    groups = tuple(workers.model_copy(update={"cold_start_seconds": 0.0}) for workers in scenario.workers)
    return scenario.model_copy(update={"workers": groups})


def _engines(scenario: Scenario, change: Callable[[EngineConfig], dict[str, Any]]) -> Scenario:
    plain = _otherwise(scenario, holding=True, free_prefill=False)
    plans, groups, first = plan_workers(plain), [], 0
    for workers in scenario.workers:
        engine = dict(workers.engine) | change(plans[first].config)
        groups.append(workers.model_copy(update={"engine": engine}))
        first += workers.count
    return scenario.model_copy(update={"workers": tuple(groups)})


_CHANGES: tuple[tuple[str, str, Callable[[Scenario], Scenario]], ...] = (
    ("holding in the gateway", "what a policy would hold goes to the worker with the fewest in flight", _no_holding),
    ("the shortage of KV memory and seats", f"the engines have {_PLENTY} times the KV blocks and seats", _plenty),
    ("the cost of prefill", "a prefill takes one step, and a step the least it can take", _free_prefill),
    ("the cost of computing again", "what a preemption took is back when the request is admitted", _free_recompute),
)
_CHANGE_OF: dict[str, Callable[[Scenario], Scenario]] = {
    **{without: change for without, _, change in _CHANGES},
    "prefix-cache hits": _no_hits,
    "cold starts": _warm,
}


def _nothing_to_hit(scenario: Scenario) -> str:
    if not any(plan.config.enable_prefix_caching for plan in plan_workers(scenario)):
        return "the engines' prefix caches are off in this scenario"
    workload = scenario.workload
    if isinstance(workload, TraceWorkload) or workload.prefixes is not None or workload.sessions is not None:
        return ""
    return "no two prompts of this traffic begin alike"


# -- traffic ---------------------------------------------------------------------------------------------------------


def _of_traffic(base: Intervention) -> Iterator[Intervention | NotApplicable]:
    half = apply(base.scenario, Regime(load=0.5))
    yield replace(base, without="half of the load", kind="traffic", how="half as many requests a second", scenario=half)
    workload = base.scenario.workload
    if isinstance(workload, TraceWorkload):
        for without in ("bursts", "the spread of prompt lengths", "the spread of answer lengths"):
            yield NotApplicable(without, "a trace has its own arrivals and lengths")
        return
    if workload.arrivals.process == "poisson":
        yield NotApplicable("bursts", "the arrivals are Poisson's already")
    else:
        calm = apply(base.scenario, Regime(burstiness=POISSON))
        yield replace(base, without="bursts", kind="traffic", how="Poisson arrivals at the same rate", scenario=calm)
    for what, name in (("prompt", "prompt_tokens"), ("answer", "output_tokens")):
        lengths = getattr(workload, name)
        alike = _alike(lengths)
        without = f"the spread of {what} lengths"
        if alike == lengths:
            yield NotApplicable(without, f"every {what} is as long as the next")
            continue
        scenario = base.scenario.model_copy(update={"workload": workload.model_copy(update={name: alike})})
        how = f"every {what} has the mean length, {alike.median:.0f} tokens"
        yield replace(base, without=without, kind="traffic", how=how, scenario=scenario)


def _alike(lengths: Lengths) -> Lengths:
    """All of the mean length."""
    if not lengths.sigma and not lengths.outlier_fraction:
        return lengths
    mean = float(max(1, round(mean_length(lengths))))
    return lengths.model_copy(update={"median": mean, "sigma": 0.0, "outlier_fraction": 0.0})


def mean_length(lengths: Lengths) -> float:
    """Expected tokens, the rounding and clipping included."""
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    drawn = lengths.median * np.exp(lengths.sigma * special.ndtri(middles))
    plain, outlying = (
        np.clip(np.rint(drawn * f), lengths.min, lengths.max).mean() for f in (1, lengths.outlier_factor)
    )
    return float((1 - lengths.outlier_fraction) * plain + lengths.outlier_fraction * outlying)


# -- slots -----------------------------------------------------------------------------------------------------------


def _of_slots(base: Intervention) -> Iterator[Intervention]:
    """The winner with the comparator's rule in one of the slots it fills; with one slot that is the comparator."""
    filled = [slot for part in base.winner.parts for slot in slots_of_part(part)]
    for slot in filled if len(filled) > 1 else ():
        theirs = tuple(_only(part, slot) for part in base.comparator.parts if slot in slots_of_part(part))
        rest = tuple(_but(part, slot) for part in base.winner.parts if set(slots_of_part(part)) - {slot})
        winner = Subject(f"the winner with the comparator's {slot} rule", (*rest, *theirs))
        how = f"the winner decides with the comparator's {slot} rule in place of its own"
        yield replace(base, without=f"the winner's {slot} rule", kind="slot", how=how, winner=winner)


def slots_of_part(part: Part) -> tuple[Slot, ...]:
    """The slots that a module fills, as far as its text tells: it is not executed here."""
    named = {node.name for node in ast.walk(parse(part.source)) if isinstance(node, ast.FunctionDef)}
    return tuple(
        slot
        for slot, methods in SLOT_METHODS.items()
        if methods <= named and (part.slots is None or slot in part.slots)
    )


def _only(part: Part, slot: Slot) -> Part:
    return replace(part, slots=(slot,)) if len(slots_of_part(part)) > 1 else part


def _but(part: Part, slot: Slot) -> Part:
    filled = slots_of_part(part)
    return replace(part, slots=tuple(other for other in filled if other != slot)) if slot in filled else part
