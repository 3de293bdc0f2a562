"""What is taken out of a policy, and how the rest is compared."""

from collections.abc import Sequence
from typing import Any

from designer.ablation import MOST_COMPONENTS, Component, ablate, components
from designer.ledger import Ledger
from designer.proposers.emit import emit
from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Sum, Times, to_json
from designer.sealed import Scored
from designer.search import RunOutcome
from designer.subject import Subject, subject_of_source, subject_of_specs

PROGRAM = Program(
    limits=(
        Limit(
            Sum((Field("worker.num_inflight_tokens"), Field("request.num_prompt_tokens"))),
            Times(Const("usable_share", 0.9), Field("worker.kv_capacity_tokens")),
        ),
    ),
    choice=(Rank(Field("worker.num_inflight_requests")),),
    order=(Rank(Field("request.num_prompt_tokens")),),
)


def test_a_program_is_taken_apart_rule_by_rule_and_term_by_term() -> None:
    winner = subject_of_source(emit(PROGRAM), "winner")
    found = {part.words: part for part in components(winner, to_json(PROGRAM))}
    assert list(found) == [
        "the limit on the prompt and output tokens in flight there plus the request's prompt tokens",
        "the choice by the worker's requests in flight",
        "the queue order by the request's prompt tokens",
        "the request's prompt tokens, in the limit",
    ]
    without = found["the queue order by the request's prompt tokens"].without.parts[0].source
    assert "return (request.arrival_time,)" in without
    assert "first come first served" in without


def test_any_other_policy_is_taken_apart_slot_by_slot() -> None:
    found = components(subject_of_specs("joint/head_room"), None)
    assert [part.words for part in found] == ["the routing rule", "the scheduling rule"]
    assert found[0].without.parts[0].slots == ("scheduling",)


def test_a_policy_of_one_slot_has_nothing_to_leave_out() -> None:
    assert components(subject_of_specs("least_loaded"), None) == []


def test_a_run_says_what_each_component_of_its_winner_is_worth(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        ablation = ledger.result("ablation")
        own = {e.seed for e in ledger.evaluations("ablation")}
        others = {e.seed for e in ledger.evaluations() if e.split != "ablation"}
    assert ablation["seeds"] == len(own) == 8
    assert not own & others
    assert max(row["ratio"] for row in ablation["rows"]) > 1.05
    assert all(row["num_seeds"] == 8 for row in ablation["rows"])
    assert all(row["adjusted_p"] >= row["p_value"] for row in ablation["rows"])
    assert ablation["not_tried"] == []


class CountingJudge:
    """Scores every policy alike, and remembers how many were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, split: str, subjects: Sequence[Subject], seeds: Sequence[int]) -> list[Scored]:
        self.asked += [subject.label for subject in subjects]
        return [Scored(subject, dict.fromkeys(seeds, 1.0)) for subject in subjects]


def test_an_ablation_costs_no_more_than_was_said_and_names_what_it_leaves_out() -> None:
    parts = [Component(f"part {n}", "term", subject_of_source(f"# {n}\n", f"{n}")) for n in range(20)]
    judge: Any = CountingJudge()
    found = ablate(judge, subject_of_source("# all\n", "all"), parts, [1, 2, 3])
    assert len(judge.asked) == 1 + MOST_COMPONENTS
    assert len(found["rows"]) == MOST_COMPONENTS
    assert found["not_tried"] == ["part 16", "part 17", "part 18", "part 19"]
