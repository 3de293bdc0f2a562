"""The moment of promotion, rehearsed: the winner takes over a gateway that is overloaded and knows it.

A sealed test runs one policy from an idle start. A promotion does not: requests are in flight and held, queues are
long, and the gateway's estimates (times to first token, arrival rate, output lengths) are those of an overload under
another policy, while whatever the new policy learns by itself begins at nothing. So, on seeds of its own and with the
load raised, the comparator runs until most requests are open, and then the winner is swapped in, as a gateway does it.
Looked at are the requests that were open at that moment and those that came soon after, against the same requests
without the swap. Harm is significant: the whole 95 % interval of the ratio is above a bound that was declared
beforehand. Seeds, load and bounds are fixed and the result is written once, so that there is nothing to try again.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from designer.evaluate import EvaluationError
from designer.grid import Regime, apply
from designer.interventions import slots_of_part
from designer.ledger import Ledger, seed_of
from designer.replay_host import WinnerSandbox
from designer.sandbox import SandboxError
from designer.sealed import effect_json
from designer.simulator.draws import Floats
from designer.simulator.scenario import Scenario
from designer.statistics import paired_effect
from designer.subject import Subject
from gateway.batch_guard import OPTION, SCHEDULER
from policies.syntax import parse

RESULT = "swap in"
SEEDS = 8
OVERLOAD = 1.5
"""Times the scenario's load."""
AFTER_SECONDS = 60.0
"""Arrivals so long after the swap are looked at as well."""
BOUNDS: Mapping[str, float] = {"mean": 1.10, "p99": 1.25}
"""What response times around the swap may be of those without it."""
NOT_SWAPPED: Mapping[str, Any] = {
    "rows": [],
    "harm": False,
    "sentence": "A batch policy is the engines' own and begins with them: a gateway's swap does not bring it in.",
}
_WAYS = ("comparator", "swap", "winner")


class RehearsalError(Exception):
    """The run has no winner to swap in; one line."""


def rehearse(
    ledger: Ledger,
    *,
    jobs: int = 2,
    deadline_seconds: float = 600.0,
    on_done: Callable[[int], None] = lambda seed: None,
) -> Mapping[str, Any]:
    """Simulate the swap, write what came of it to the ledger, once; what was written.

    A simulation that fails is told as harm, and may be tried again: it has shown nothing.

    Raises:
        RehearsalError: there is no winner.
    """
    frozen = ledger.frozen()
    if frozen is None:
        raise RehearsalError(f"{ledger.path}: the run has no winner to swap in")
    if (known := ledger.result(RESULT)) is not None:
        return known
    winner, comparator, run = ledger.subject(frozen.digest), ledger.subject(frozen.comparator), ledger.run()
    if fills_batch(winner):
        ledger.add_result(RESULT, told := not_rehearsed(winner))
        return told
    seeds = [seed_of(run.secret, "regime", n, RESULT) for n in range(SEEDS)]
    try:
        scenario = apply(Scenario.model_validate_json(run.scenario), Regime(load=OVERLOAD))
        found = _on_all(scenario, winner, comparator, seeds, jobs, deadline_seconds, on_done)
        content = _judged([_around(ways) for ways in found], comparator.label)
    except (EvaluationError, SandboxError) as error:
        failed = {"failure": str(error), "harm": True, "sentence": f"The swap could not be simulated: {error}."}
        ledger.add_event(f"{RESULT} failed", failed)
        return failed
    declared = {"seeds": SEEDS, "overload": OVERLOAD, "after_seconds": AFTER_SECONDS, "bounds": dict(BOUNDS)}
    ledger.add_result(RESULT, {**declared, **content})
    return {**declared, **content}


def fills_batch(subject: Subject) -> bool:
    """Whether a module of it has what makes a batch policy; found without running it."""
    nodes = (node for part in subject.parts for node in ast.walk(parse(part.source)))
    return any(isinstance(node, ast.FunctionDef) and node.name == "prefill_budget" for node in nodes)


def not_rehearsed(winner: Subject) -> Mapping[str, Any]:
    """What is written of a winner with batch rules; if it fills other slots too, that these were not rehearsed."""
    others = sorted({slot for part in winner.parts for slot in slots_of_part(part)} - {"batch"})
    if not others:
        return NOT_SWAPPED
    sentence = (
        f"Not rehearsed: beside {' and '.join(others)} rules the winner has batch rules, which a gateway's swap does "
        "not bring in; what the rest does when it is swapped in by itself was not simulated."
    )
    return {**NOT_SWAPPED, "sentence": sentence}


def batch_in(winner: Subject, num_replayed: int) -> dict[str, Any] | None:
    """What a promotion carries of batch rules, which no gateway runs; None where the winner has none.

    Args:
        num_replayed: pairs of it in the ledger; its batch rules were in force in none.
    """
    if not fills_batch(winner):
        return None
    others = " and ".join(sorted({slot for part in winner.parts for slot in slots_of_part(part)} - {"batch"}))
    lacks = [f"its {others} rules were never rehearsed with its batch rules in force"] if others else []
    lacks += [f"its {num_replayed} replay pairs were made without its batch rules"] if num_replayed else []
    return {
        "in_force": {"sealed": True, "replay": False, "swap_in": False},
        "objection": f"A gateway does not run batch rules, and {' and '.join(lacks)}." if lacks else "",
        "sentence": "Its batch rules are the workers' to run, and the gateway's swap does not bring them in: they were "
        f"in force in the sealed test, and in no replay or rehearsal. Each vLLM needs --scheduler-cls {SCHEDULER} and "
        f"this file as {OPTION} in --additional-config.",
    }


def harm_in(rehearsal: Mapping[str, Any] | None) -> str:
    """Its sentence if the swap does significant harm, or could not be simulated; else empty."""
    return str(rehearsal["sentence"]) if rehearsal is not None and rehearsal["harm"] else ""


def _on_all(
    scenario: Scenario,
    winner: Subject,
    comparator: Subject,
    seeds: Sequence[int],
    jobs: int,
    deadline_seconds: float,
    on_done: Callable[[int], None],
) -> list[dict[str, Mapping[str, Any]]]:
    sandbox = WinnerSandbox(scenario, jobs=jobs, deadline_seconds=deadline_seconds)

    def one(seed: int) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        for way in _WAYS:
            moment = float(found["comparator"]["moment"]) if found else 0.0
            found[way] = sandbox.swapped(winner, comparator, seed, way, moment)
        on_done(seed)
        return found

    with contextlib.closing(sandbox), ThreadPoolExecutor(jobs) as threads:
        return list(threads.map(one, seeds))


def _around(ways: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of one seed: what the requests around the swap took, by way."""
    stayed = ways["comparator"]
    moment = float(stayed["moment"])
    arrivals, ends = _numbers(stayed["arrivals"]), _numbers(stayed["ends"])
    open_then = (arrivals <= moment) & (ends > moment)
    looked_at = open_then | ((arrivals > moment) & (arrivals <= moment + AFTER_SECONDS))
    times = {way: _numbers(found["response_times"])[looked_at] for way, found in ways.items()}
    return {
        "num_open": int(open_then.sum()),
        "num_requests": int(looked_at.sum()),
        "mean": {way: float(of.mean()) for way, of in times.items()},
        "p99": {way: float(np.percentile(of, 99)) for way, of in times.items()},
    }


def _numbers(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _judged(seeds: Sequence[Mapping[str, Any]], comparator: str) -> dict[str, Any]:
    rows = [_row(seeds, statistic, bound) for statistic, bound in BOUNDS.items()]
    harm = [row["what"] for row in rows if row["harm"]]
    said = ", ".join(f"{row['what']} {row['ratio']:.3f} (at most {row['bound']:g})" for row in rows)
    verdict = f"does significant harm in the {' and the '.join(harm)}" if harm else "does no significant harm"
    num_open = round(sum(seed["num_open"] for seed in seeds) / len(seeds))
    sentence = (
        f"Swapped in for {comparator} at {OVERLOAD:g} times the load with {num_open} requests open, on {len(seeds)} "
        f"seeds: {said} of what it is without the swap. The swap {verdict}."
    )
    return {"rows": rows, "num_open": num_open, "harm": bool(harm), "sentence": sentence}


def _row(seeds: Sequence[Mapping[str, Any]], statistic: str, bound: float) -> dict[str, Any]:
    values = {way: [float(seed[statistic][way]) for seed in seeds] for way in _WAYS}
    effect = paired_effect(values["swap"], values["comparator"])
    return {
        **effect_json(effect),
        "what": f"{statistic} response time",
        "bound": bound,
        "harm": effect.t_interval.low > bound,
        **{way: sum(of) / len(of) for way, of in values.items()},
    }
