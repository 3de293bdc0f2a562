"""A run's winner beside its comparator through the real gateway: does what the simulator said come true?

Pairs of real-time runs on the same requests, fresh workers and a fresh gateway for each, in alternating order so that
what changes on the machine over time falls on both alike. The unit is a pair; one pair is one seed. What is compared
with the simulator is the ratio of the two policies, seed by seed, which delays that both have leave alone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from designer.fidelity import METRICS, Comparison, Fidelity, Metric, Side, compare
from designer.ledger import Ledger, seed_of
from designer.sealed import effect_json
from designer.simulator.scenario import Scenario
from designer.statistics import PairedEffect, paired_effect
from designer.subject import Subject

LEAST_PAIRS = 3
TOLERANCE = 0.10
"""How much less favourable than simulated a ratio may come out, relative, before it counts as a contradiction."""


class ReplayError(Exception):
    """A replay that cannot be made or judged; one line."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both policies on one seed."""

    seed: int
    winner: Comparison
    comparator: Comparison

    @property
    def is_valid(self) -> bool:
        return self.winner.is_valid and self.comparator.is_valid


def replay(
    ledger: Ledger,
    *,
    pairs: int,
    speed: float = 1.0,
    first_seconds: float | None = None,
    workers: Sequence[str] = (),
    on_policy: Callable[[Comparison], None] = lambda done: None,
    run_pair: Callable[..., Fidelity] = compare,
) -> dict[str, Any]:
    """Make the pairs, judge them, and write the outcome to the ledger; what was written.

    Args:
        speed: scenario seconds in a second.
        first_seconds: only what arrives before, seconds of the scenario.
        workers: addresses of real workers; none: mock workers are started.
        run_pair: makes the two runs of a pair; takes what ``compare`` takes.

    Raises:
        ReplayError: there is no winner, or too few pairs were valid.
        FidelityError, ProcessError, ScenarioError: a run failed.
    """
    frozen, run = ledger.frozen(), ledger.run()
    if frozen is None:
        raise ReplayError(f"{ledger.path}: the run has no winner to replay")
    if pairs < LEAST_PAIRS:
        raise ReplayError(f"{pairs} pairs say nothing; make at least {LEAST_PAIRS}")
    folder = ledger.path.parent / "replay"
    specs = [_as_spec(ledger.subject(digest), folder) for digest in (frozen.digest, frozen.comparator)]
    scenario = Scenario.model_validate_json(run.scenario)
    made = []
    for number in range(pairs):
        seed = seed_of(run.secret, "validation", number, "replay")
        order = specs if number % 2 == 0 else specs[::-1]
        place = folder / f"pair-{number + 1}"
        shutil.rmtree(place, ignore_errors=True)
        fidelity = run_pair(
            scenario,
            order,
            seed,
            place,
            speed=speed,
            first_seconds=first_seconds,
            workers=workers,
            on_policy=on_policy,
        )
        by_policy = {comparison.policy: comparison for comparison in fidelity.comparisons}
        made.append(Pair(seed, by_policy[specs[0]], by_policy[specs[1]]))
    outcome = judge(made, ledger.subject(frozen.comparator).label, "the given workers" if workers else "mock workers")
    ledger.add_result(f"replay {_number(ledger)}", {**outcome, "speed": speed, "first_seconds": first_seconds})
    return outcome


def _number(ledger: Ledger) -> int:
    number = 1
    while ledger.result(f"replay {number}") is not None:
        number += 1
    return number


def _as_spec(subject: Subject, folder: Path) -> str:
    """What a gateway loads: the name of a built-in, or a file with the very bytes that were evaluated."""
    if subject.trusted:
        return subject.label
    if len(subject.parts) != 1 or any(sign in str(folder.resolve()) for sign in ":@+"):
        raise ReplayError(f"{folder}: a policy's path cannot hold ':', '@' or '+'; move the run")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f"policy-{subject.digest[:12]}.py"
    path.write_bytes(subject.parts[0].source.encode())
    return str(path)


def judge(made: Sequence[Pair], comparator: str, workers: str) -> dict[str, Any]:
    """Whether the real ratios contradict the simulated ones.

    Raises:
        ReplayError: too few pairs are valid.
    """
    valid = [pair for pair in made if pair.is_valid]
    if len(valid) < LEAST_PAIRS:
        why = next(c.verdict for pair in made for c in (pair.winner, pair.comparator) if not c.is_valid)
        raise ReplayError(f"{len(valid)} of {len(made)} pairs were valid, {LEAST_PAIRS} are needed: {why}")
    rows = [_row(metric, valid) for metric in METRICS]
    contradicted = [row["metric"] for row in rows if row["contradicts"]]
    mean = next(row for row in rows if row["metric"] == "mean response time")
    low, high = mean["t_interval"]
    verb = f"contradicts the simulator in {', '.join(contradicted)}"
    real = f"mean response time {mean['ratio']:.3f} [{low:.3f}, {high:.3f}] of {comparator}"
    told = f"{real}, simulated {mean['simulated']:.3f}"
    said = verb if contradicted else "does not contradict the simulator"
    return {
        "pairs": len(valid),
        "invalid": len(made) - len(valid),
        "workers": workers,
        "comparator": comparator,
        "metrics": rows,
        "contradicts": bool(contradicted),
        "sentence": f"{len(valid)} alternated pairs on {workers}: {told}. The replay {said}.",
    }


def _row(metric: Metric, pairs: Sequence[Pair]) -> dict[str, Any]:
    """One metric's mean, by pairs.

    A contradiction is significant: either the winner is worse in real time, its whole 95 % interval above 1, or its
    ratio is less favourable than simulated by more than the tolerance, the whole interval of that difference.
    """

    def values(of: Callable[[Pair], Side]) -> list[float]:
        return [of(pair).value(metric, "mean") for pair in pairs]

    winner, comparator = values(lambda p: p.winner.real), values(lambda p: p.comparator.real)
    real = paired_effect(winner, comparator)
    simulated = [a / b for a, b in zip(*_simulated(pairs, metric), strict=True)]
    beyond = paired_effect([a / b for a, b in zip(winner, comparator, strict=True)], simulated)
    return {
        **effect_json(real),
        "metric": f"mean {metric.replace('_', ' ')}",
        "winner": sum(winner) / len(winner),
        "comparator": sum(comparator) / len(comparator),
        "simulated": math.exp(sum(map(math.log, simulated)) / len(simulated)),
        "contradicts": contradicts(real, beyond),
    }


def _simulated(pairs: Sequence[Pair], metric: Metric) -> tuple[list[float], list[float]]:
    return (
        [pair.winner.simulated.value(metric, "mean") for pair in pairs],
        [pair.comparator.simulated.value(metric, "mean") for pair in pairs],
    )


def contradicts(real: PairedEffect, beyond: PairedEffect) -> bool:
    """``beyond``: the real ratio over the simulated one."""
    return real.t_interval.low > 1.0 or beyond.t_interval.low > 1.0 + TOLERANCE


def contradicted_by(replays: Sequence[Mapping[str, Any]]) -> str:
    """The sentence of the latest replay if it contradicts the simulator; else empty."""
    return str(replays[-1]["sentence"]) if replays and replays[-1]["contradicts"] else ""
