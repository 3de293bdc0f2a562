"""What a run finds out of its winner after the verdict, and without a part in it: each on seeds of its own.

What each component is worth (``designer.ablation``), in which regimes it wins (``designer.certificate``), and on what
its gain hangs (``designer.why``). What the ledger has is not found out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from designer.ablation import ablate, components
from designer.certificate import REGIMES, certify
from designer.executor import Executor
from designer.ledger import FrozenRecord, Ledger, seed_of
from designer.sealed import Judge
from designer.simulator.scenario import Scenario
from designer.subject import Subject
from designer.why import WhyError, explain


@dataclass(frozen=True, slots=True)
class Extent:
    """On how many seeds; 0: not at all."""

    ablation_seeds: int
    regime_seeds: int
    why_seeds: int


def explained(
    ledger: Ledger,
    judge: Judge,
    executor: Executor,
    frozen: FrozenRecord,
    extent: Extent,
    *,
    program: Mapping[str, Any] | None,
    rivals: Sequence[str],
    deadline_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Find it out and write it down.

    Args:
        program: of the winner, if it is one of a grammar.
        rivals: policies that it meets in every regime, beside the comparator.
    """
    winner = ledger.subject(frozen.digest)
    if extent.ablation_seeds and ledger.result("ablation") is None:
        seeds = [seed_of(ledger.run().secret, "ablation", n, frozen.digest) for n in range(extent.ablation_seeds)]
        ledger.add_result("ablation", ablate(judge, winner, components(winner, program), seeds))
    if extent.regime_seeds and ledger.result("certificate") is None:
        say(f"certificate: {len(REGIMES)} regimes, {extent.regime_seeds} seeds each")
        others = _distinct([ledger.subject(frozen.comparator), *map(ledger.named, rivals)])
        ledger.add_result(
            "certificate",
            certify(
                ledger,
                Scenario.model_validate_json(ledger.run().scenario),
                winner,
                others,
                extent.regime_seeds,
                executor=executor,
                deadline_seconds=deadline_seconds,
            ),
        )
    if extent.why_seeds:
        _why(ledger, executor, extent.why_seeds, deadline_seconds, say)


def _why(
    ledger: Ledger, executor: Executor, num_seeds: int, deadline_seconds: float, say: Callable[[str], None]
) -> None:
    """A winner that cannot be simulated there has its verdict all the same."""
    say(f"why it wins: interventions on {num_seeds} seeds each")
    try:
        explain(ledger, executor, num_seeds=num_seeds, deadline_seconds=deadline_seconds)
    except WhyError as error:
        ledger.add_event("not explained", {"reason": str(error)}, once=True)
        say(f"not explained: {error}")


def _distinct(subjects: Sequence[Subject]) -> list[Subject]:
    return list({subject.digest: subject for subject in subjects}.values())
