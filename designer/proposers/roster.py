"""Who writes candidates, by name; for what; and who spends the same budget beside the search, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from designer.proposers.evolve import EvolveProposer
from designer.proposers.joint import JointProposer
from designer.proposers.parts import PART_NAMES, PartName
from designer.proposers.protocol import Proposer
from designer.proposers.random import RandomProposer
from designer.proposers.tuned_baseline import TunedBaselineProposer
from designer.proposers.vocabulary import QUANTITIES


class TargetError(ValueError):
    """What is to be searched is not there; one line."""


def parse_target(text: str) -> tuple[PartName, ...]:
    """The parts that a target names, by comma, in the order of ``PART_NAMES``.

    A router that may hold needs an order of what it holds, so ``routing`` holds ``scheduling`` already.

    Raises:
        TargetError: there is no such part.
    """
    named = {part.strip() for part in text.split(",")}
    if unknown := sorted(named - set(PART_NAMES)):
        raise TargetError(f"no target {unknown[0]!r}; one or several of {', '.join(PART_NAMES)}, joined by a comma")
    return tuple(part for part in PART_NAMES if part in named and not (part == "scheduling" and "routing" in named))


@dataclass(frozen=True, slots=True)
class Brief:
    """What a proposer is told at its start."""

    seed: int
    budget: int
    """Simulations."""
    offered: frozenset[str] = frozenset(QUANTITIES)
    """Names of the quantities that tell something in the scenario."""
    target: str = "routing"
    """As ``parse_target`` reads it."""


def _evolve(brief: Brief) -> Proposer:
    return _joint("evolve", brief) or EvolveProposer(brief.seed, brief.offered)


def _random(brief: Brief) -> Proposer:
    return _joint("random", brief) or RandomProposer(brief.seed, brief.offered)


def _tuned(brief: Brief) -> Proposer:
    return _joint("tuned-baseline", brief) or TunedBaselineProposer(brief.seed, brief.offered)


def _joint(mode: str, brief: Brief) -> Proposer | None:
    """None: routing alone, which has proposers of its own."""
    parts = parse_target(brief.target)
    return None if parts == ("routing",) else JointProposer(mode, parts, brief.seed, brief.offered)


PROPOSERS: Mapping[str, Callable[[Brief], Proposer]] = {"evolve": _evolve, "random": _random, "tuned-baseline": _tuned}
CONTROLS: Mapping[str, str] = {"control": "random", "tuned": "tuned-baseline"}
"""Arm by arm, who spends the same budget beside the search."""
