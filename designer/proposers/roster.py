"""Who writes candidates, by name; and who spends the same budget beside the search, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from designer.proposers.evolve import EvolveProposer
from designer.proposers.evolve_scaling import ScalingProposer
from designer.proposers.protocol import Proposer
from designer.proposers.random import RandomProposer
from designer.proposers.tuned_baseline import TunedBaselineProposer
from designer.proposers.vocabulary import QUANTITIES

Target = Literal["routing", "autoscaling"]
"""What is searched: routing and scheduling jointly, or how many replicas there are."""
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Brief:
    """What a proposer is told at its start."""

    seed: int
    budget: int
    """Simulations."""
    offered: frozenset[str] = frozenset(QUANTITIES)
    """Names of the quantities that tell something in the scenario."""
    target: Target = "routing"


def _evolve(brief: Brief) -> Proposer:
    return EvolveProposer(brief.seed, brief.offered) if brief.target == "routing" else _scaling("evolve", brief)


def _random(brief: Brief) -> Proposer:
    return RandomProposer(brief.seed, brief.offered) if brief.target == "routing" else _scaling("random", brief)


def _tuned(brief: Brief) -> Proposer:
    if brief.target == "routing":
        return TunedBaselineProposer(brief.seed, brief.offered)
    return _scaling("tuned-baseline", brief)


def _scaling(mode: str, brief: Brief) -> Proposer:
    return ScalingProposer(mode, brief.seed)


PROPOSERS: Mapping[str, Callable[[Brief], Proposer]] = {"evolve": _evolve, "random": _random, "tuned-baseline": _tuned}
CONTROLS: Mapping[str, str] = {"control": "random", "tuned": "tuned-baseline"}
"""Arm by arm, who spends the same budget beside the search."""
