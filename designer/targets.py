"""What a run of some target is measured against, in a scenario: the hand-made policies that its winner must beat.

The first is the reference, what a gateway does unless told otherwise. All are the published or usual rules that fit
the scenario; ``tuned-baseline`` adds such rules with their constants tuned.
"""

from __future__ import annotations

from itertools import product

from designer.proposers.roster import parse_target
from designer.simulator.scenario import Scenario, TraceWorkload

REFERENCE = "least_loaded+fcfs"
"""What the search measures against, and the gateway's default."""
BASELINES = (
    REFERENCE,
    "least_tokens+fcfs",
    "least_waiting+fcfs",
    "power_of_two+fcfs",
    "round_robin+fcfs",
    "random+fcfs",
)
"""What stands in for "what is in use": the best of them is what a winner must beat."""
REFERENCES = ("joint/expert", "joint/head_room")
"""Published designs: reported beside the winner, and neither seeds of the search nor its comparator unless asked."""
_SCALED = ("target_tracking:target=16", "target_tracking:target=32", "target_tracking:target=64", "queue_length")
_BATCHED = ("", "shortest_prompt", "shortest_prompt:prefill_share=0.25")
_ROUTED = (REFERENCE, "joint/head_room")
"""Beside other parts: what goes at once, and what is held."""


def baselines_of(target: str, scenario: Scenario) -> tuple[str, ...]:
    """Policy sets that fill the slots of the target.

    Raises:
        TargetError: there is no such target.
    """
    parts = parse_target(target)
    if not {"autoscaling", "batch"} & set(parts):
        return (*BASELINES, *_of_the_scenario(scenario))
    several = len(parts) > 1
    routed = _ROUTED if several and {"routing", "scheduling"} & set(parts) else _ROUTED[:1]
    scaled = _SCALED[1:3] if several else _SCALED
    batched = _BATCHED[:2] if several else _BATCHED
    chosen = product(routed, scaled if "autoscaling" in parts else ("",), batched if "batch" in parts else ("",))
    return tuple("+".join(filter(None, names)) for names in chosen)


def references_of(target: str) -> tuple[str, ...]:
    """Published designs for the target."""
    return REFERENCES if not {"autoscaling", "batch"} & set(parse_target(target)) else ()


def _of_the_scenario(scenario: Scenario) -> tuple[str, ...]:
    """Rules for workers that remember prefixes, and for unlike workers."""
    found = ("prefix_affinity+fcfs",) if _shares_prefixes(scenario) else ()
    return (*found, "latency_weighted+fcfs") if len({workers.profile for workers in scenario.workers}) > 1 else found


def _shares_prefixes(scenario: Scenario) -> bool:
    """Prompts may begin alike, and some worker keeps what it computed."""
    if all(workers.engine.get("enable_prefix_caching") is False for workers in scenario.workers):
        return False
    workload = scenario.workload
    if isinstance(workload, TraceWorkload):
        return True
    return workload.prefixes is not None or workload.sessions is not None
