"""The proposers for autoscaling on a toy world whose best rule is known."""

import math

from designer.proposers.evolve_scaling import FAMILIES, SCALING, ScalingProposer
from designer.proposers.protocol import History, Outcome
from designer.proposers.scaling import ScalingProgram, constants, from_json

REFERENCE = dict.fromkeys(range(4), 5000.0)


def _toy(program: ScalingProgram) -> float:
    """Best: the forecast at 5 a replica, shrinking after 20 seconds."""
    values = {name: constant.value for name, constant in constants(program).items()}
    missed = 0.0 if program.signals[0].name == "forecast" else 0.2
    rate = values.get("rate_per_replica", 50.0)
    return 0.7 + missed + 0.05 * math.log(rate / 5.0) ** 2 + 0.01 * math.log(values["hold_seconds"] / 20.0) ** 2


def _run(mode: str, seed: int, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for _ in range(count):
        proposal = ScalingProposer(mode, seed).propose(History(REFERENCE, tuple(outcomes)))
        factor = _toy(from_json(proposal.program or {}))
        outcomes.append(Outcome(proposal, "scored", {seed: factor * score for seed, score in REFERENCE.items()}))
    return outcomes


def test_evolution_finds_the_rule_and_its_constants() -> None:
    best = min(o.scores[0] for o in _run("evolve", 1, 70))
    assert best < 0.75 * 5000.0
    assert best < min(o.scores[0] for o in _run("tuned-baseline", 1, 70))


def test_tuned_baselines_invent_nothing() -> None:
    known = {SCALING.skeleton(rule) for _, rule in FAMILIES}
    assert {SCALING.skeleton(from_json(o.proposal.program or {})) for o in _run("tuned-baseline", 2, 40)} == known


def test_the_same_seed_and_history_give_the_same_proposals() -> None:
    for mode in ("evolve", "random", "tuned-baseline"):
        assert _run(mode, 3, 15) == _run(mode, 3, 15)
