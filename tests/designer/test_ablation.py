"""What is taken out of a policy, and how the rest is compared."""

from designer.ablation import components
from designer.ledger import Ledger
from designer.proposers.emit import emit
from designer.proposers.grammar import Const, Field, Limit, Program, Rank, Sum, Times, to_json
from designer.search import RunOutcome
from designer.subject import subject_of_source, subject_of_specs

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
        validation = {e.seed for e in ledger.evaluations("validation")}
    assert ablation["seeds"] == 8
    assert len(validation) == 8
    assert max(row["ratio"] for row in ablation["rows"]) > 1.05
    assert all(row["num_seeds"] == 8 for row in ablation["rows"])
