"""What a run can cost at most, told before it begins: simulations of one policy on one seed, phase by phase.

Every number is a bound that holds whatever the run finds: two looks if two are allowed, five finalists if five are
allowed, a winner that is explained. The time is a guess on top of it, from the simulations of the baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from designer.ablation import MOST_COMPONENTS
from designer.certificate import REGIMES
from designer.proposers.llm.settings import stored_settings
from designer.why import most_simulations as most_of_why

if TYPE_CHECKING:
    from designer.search import Settings

VALIDATED_BASELINES = 2
"""Of the baselines, the best on the train seeds: those a finalist is compared with, beside the tuned one."""
CHECKS_OF_A_FINALIST = 4
"""Two in lockstep, and two with different futures."""
LOCKSTEP_COST = 3.0
"""Times as long as a simulation beside its policy; measured on glia: 1.85 s to 0.68 s."""


def most_simulations(settings: Settings, num_arms: int) -> dict[str, int]:
    """By phase, what it can cost at most."""
    protocol, controls = settings.protocol, num_arms - 1
    shown = len({settings.baselines[0], *settings.references}) + controls
    return {
        "baselines": len(settings.baselines) * protocol.train_seeds + 1,
        "search": settings.budget,
        "controls": controls * settings.budget,
        "analysis": 0 if settings.llm is None else stored_settings(settings.llm).caps.analysis_simulations,
        "checks": protocol.finalists * CHECKS_OF_A_FINALIST,
        "validation": protocol.validation_seeds * (protocol.finalists + VALIDATED_BASELINES + controls),
        "sealed": protocol.max_looks * protocol.sealed_seeds * (2 + shown),
        "ablation": settings.ablation_seeds * (1 + MOST_COMPONENTS),
        "regimes": len(REGIMES) * settings.regime_seeds * (3 + len(settings.references)),
        "why": most_of_why(settings.why_seeds),
    }


def in_words(most: Mapping[str, int], seconds: float, jobs: int) -> str:
    """In a line.

    Args:
        seconds: that a simulation beside its policy takes.
        jobs: simulations at a time.
    """
    beside = sum(most[phase] for phase in ("baselines", "search", "controls", "analysis"))
    apart = sum(most.values()) - beside
    minutes = (beside + LOCKSTEP_COST * apart) * seconds / jobs / 60
    phases = ", ".join(f"{phase} {count}" for phase, count in most.items() if count)
    return f"at most {sum(most.values())} simulations ({phases}); at {seconds:.2f} s each up to about {minutes:.0f} min"
