"""The proposers over parts, on toy worlds whose best program is known."""

import math
from collections.abc import Callable

import pytest

from designer.proposers.joint import JointProposer
from designer.proposers.parts import JOINT, PARTS, Joint, PartName, behaviour, from_json
from designer.proposers.protocol import History, Outcome

REFERENCE = dict.fromkeys(range(4), 5000.0)
Toy = Callable[[Joint], float]


def _scaling_toy(program: Joint) -> float:
    """Best: arrivals carried on along their line at 5 a replica, shrinking after 20 seconds."""
    part = dict(program.parts)["autoscaling"]
    values = dict(part.values)
    missed = 0.0 if "requests_ahead" in part.signals else 0.2
    rate = values.get("rate_per_replica", 50.0)
    return 0.7 + missed + 0.05 * math.log(rate / 5.0) ** 2 + 0.01 * math.log(values["hold_seconds"] / 20.0) ** 2


def _batch_toy(program: Joint) -> float:
    """Best: short prompts first, and a fifth of a step for prefill."""
    part = dict(program.parts)["batch"]
    short = any(term.name == "num_prompt_tokens" and not term.less for term in part.waiting.terms)
    share = next((constant.value for constant in part.limits if constant.kind == "prefill_share"), 1.0)
    return 0.7 + (0.0 if short else 0.2) + 0.05 * math.log(share / 0.2) ** 2


def _both(program: Joint) -> float:
    return _scaling_toy(program) * _batch_toy(program)


def _run(mode: str, parts: tuple[PartName, ...], toy: Toy, seed: int, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    proposer = JointProposer(mode, parts, seed)
    for _ in range(count):
        proposal = proposer.propose(History(REFERENCE, tuple(outcomes)))
        factor = toy(from_json(proposal.program or {}))
        outcomes.append(Outcome(proposal, "scored", {seed: factor * score for seed, score in REFERENCE.items()}))
    return outcomes


def _best(outcomes: list[Outcome]) -> float:
    return min(outcome.scores[0] for outcome in outcomes) / 5000.0


@pytest.mark.parametrize(
    ("parts", "toy", "good"),
    [(("autoscaling",), _scaling_toy, 0.75), (("batch",), _batch_toy, 0.72), (("autoscaling", "batch"), _both, 0.66)],
)
def test_evolution_finds_rules_and_constants_of_every_part(parts: tuple[PartName, ...], toy: Toy, good: float) -> None:
    assert _best(_run("evolve", parts, toy, 1, 80)) < good


@pytest.mark.parametrize("part", ["scheduling", "autoscaling", "batch"])
def test_tuned_baselines_invent_nothing(part: PartName) -> None:
    known = {JOINT.skeleton(Joint(((part, rule),))) for _, rule in PARTS[part].rules}
    proposed = [from_json(o.proposal.program or {}) for o in _run("tuned-baseline", (part,), lambda _: 1.0, 2, 30)]
    assert {JOINT.skeleton(program) for program in proposed} == known


def test_known_rules_are_tuned_to_their_best_constants() -> None:
    carried = 40.0

    def toy(program: Joint) -> float:
        values = dict(dict(program.parts)["autoscaling"].values)
        return 0.7 + 0.1 * math.log(values.get("requests_per_replica", 1.0) / carried) ** 2

    best = min(_run("tuned-baseline", ("autoscaling",), toy, 1, 60), key=lambda outcome: outcome.scores[0])
    values = dict(dict(from_json(best.proposal.program or {}).parts)["autoscaling"].values)
    assert values["requests_per_replica"] == pytest.approx(carried, rel=0.1)


def test_evolution_starts_from_the_plain_rules_and_never_repeats_itself() -> None:
    outcomes = _run("evolve", ("autoscaling", "batch"), _both, 3, 40)
    programs = [from_json(outcome.proposal.program or {}) for outcome in outcomes]
    plain = Joint(tuple((name, PARTS[name].founders[0][1]) for name in ("autoscaling", "batch")))  # type: ignore[index]
    assert programs[0] == plain
    assert len({behaviour(program) for program in programs}) == len(programs)


def test_a_rule_that_starts_badly_is_tuned_before_it_is_given_up() -> None:
    """Looking ahead is worth a fifth here, and looks no better than the rest at the constants it starts with."""

    def toy(program: Joint) -> float:
        part = dict(program.parts)["autoscaling"]
        best, least = (9.0, 0.5) if part.signals == ("requests_ahead",) else (50.0, 0.62)
        carried = part.values[0][1]
        return least * best / carried if carried <= best else least * (1 + 4 * (carried / best - 1))

    found = [_best(_run("evolve", ("autoscaling",), toy, seed, 56)) for seed in (1, 2, 3)]
    assert sum(best < 0.56 for best in found) >= 2, found


def test_a_change_names_its_part_and_a_child_its_parents() -> None:
    outcomes = _run("evolve", ("autoscaling", "batch"), _both, 4, 60)
    changes = [outcome.proposal.change for outcome in outcomes]
    assert any(change.startswith("autoscaling: ") for change in changes)
    assert any(change.startswith("takes the ") for change in changes)
    for outcome in outcomes:
        assert bool(outcome.proposal.parents) == (
            outcome.proposal.change not in ("starts from known rules", "starts afresh")
        )


@pytest.mark.parametrize("mode", ["evolve", "random", "tuned-baseline"])
def test_the_same_seed_and_history_give_the_same_proposals(mode: str) -> None:
    for parts in (("scheduling",), ("autoscaling", "batch")):
        first = _run(mode, parts, lambda _: 1.0, 3, 15)  # type: ignore[arg-type]
        assert first == _run(mode, parts, lambda _: 1.0, 3, 15)  # type: ignore[arg-type]


def test_what_a_replica_carries_is_tried_above_and_below_before_a_rule_is_judged() -> None:
    """Every rule is best at a constant of its own, far above where it starts; looking ahead is worth most."""
    tops = {"requests": 110.0, "arrivals": 9.0, "requests_ahead": 8.0, "waiting": 4.0}

    def toy(program: Joint) -> float:
        part = dict(program.parts)["autoscaling"]
        top = tops.get(part.signals[0], 1.0)
        least = 0.5 if part.signals == ("requests_ahead",) else 0.6
        carried = part.values[0][1]
        return least * top / carried if carried <= top * 1.01 else least * (1 + 10 * (carried / top - 1))

    for seed in (1, 2, 3):
        outcomes = _run("evolve", ("autoscaling",), toy, seed, 24)
        assert _best(outcomes) < 0.53
        rules = [dict(from_json(o.proposal.program or {}).parts)["autoscaling"] for o in outcomes]
        assert rules[0].signals == rules[4].signals == ("requests",)
        assert rules[4].values[0][1] > rules[0].values[0][1]


def test_a_joint_search_starts_with_a_look_ahead_beside_short_prompts_first() -> None:
    """Every plain rule of both parts is among the first four candidates."""
    outcomes = _run("evolve", ("autoscaling", "batch"), lambda _: 1.0, 1, 4)
    pairs = [dict(from_json(outcome.proposal.program or {}).parts) for outcome in outcomes]
    assert [pair["autoscaling"].signals for pair in pairs][3] == ("requests_ahead",)
    assert [term.name for term in pairs[3]["batch"].waiting.terms] == ["num_prompt_tokens"]
    assert len({repr(pair["batch"]) for pair in pairs}) == 4
