"""The families of plain rules, and that only their constants are changed."""

import math

from designer.proposers.grammar import Const, from_json, sites
from designer.proposers.protocol import History, Outcome
from designer.proposers.tuned_baseline import FAMILIES, TunedBaselineProposer
from designer.proposers.tuning import ROUTING

REFERENCE = dict.fromkeys(range(4), 50.0)


def run(proposer: TunedBaselineProposer, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for _ in range(count):
        proposal = proposer.propose(History(REFERENCE, tuple(outcomes)))
        caps = [s.expr.value for s in sites(from_json(proposal.program or {})) if isinstance(s.expr, Const)]
        factor = 0.6 + 0.1 * math.log(caps[0] / 40.0) ** 2
        outcomes.append(Outcome(proposal, "scored", {seed: factor * score for seed, score in REFERENCE.items()}))
    return outcomes


def test_every_family_is_tried_before_any_is_tuned_and_none_is_invented() -> None:
    outcomes = run(TunedBaselineProposer(1), 40)
    known = {ROUTING.skeleton(program) for _, program in FAMILIES}
    assert {o.proposal.change for o in outcomes[: len(FAMILIES)]} == {name for name, _ in FAMILIES}
    assert {ROUTING.skeleton(from_json(o.proposal.program or {})) for o in outcomes} == known


def test_constants_come_near_the_best() -> None:
    best = min(o.scores[0] for o in run(TunedBaselineProposer(1), 40))
    assert best < 50.0 * 0.605


def test_a_family_that_reads_what_is_not_offered_is_left_out() -> None:
    offered = frozenset({"worker.num_inflight_requests", "request.num_prompt_tokens"})
    assert {o.proposal.change for o in run(TunedBaselineProposer(1, offered), 20)} == {
        "a cap on the requests of a worker",
        "a cap on the requests of a worker, shortest prompt first",
    }


def test_the_same_seed_and_history_give_the_same_proposals() -> None:
    assert run(TunedBaselineProposer(4), 20) == run(TunedBaselineProposer(4), 20)
