"""Results in words: what was predicted beside what came, without code."""

from __future__ import annotations

from designer.proposers.llm.digest import Finding, experiment_result, findings_text, ledger_digest
from designer.proposers.protocol import History, Outcome, Proposal

REFERENCE = {1: 10.0, 2: 20.0}


def outcome(text: str, scores: dict[int, float], predicted: float | None = 0.9, reason: str = "") -> Outcome:
    status = "failed" if reason else "scored" if scores else "proposed"
    return Outcome(Proposal(f"# secret {text}\n", f"because {text}", predicted), status, scores, reason)


HISTORY = History(
    REFERENCE,
    (
        outcome("a", {1: 8.0, 2: 16.0}),
        outcome("b", {}, reason="breaks the contract: line 3: import: os is not allowed"),
        outcome("c", {1: 9.0}, None),
        outcome("d", {}),
    ),
)


def test_a_line_an_experiment_and_no_code() -> None:
    assert ledger_digest(HISTORY, [0, 1, 2]).splitlines() == [
        "candidate 0: predicted 0.900, observed 0.800. because a",
        "candidate 1: predicted 0.900, failed: breaks the contract: line 3: import: os is not allowed. because b",
        "candidate 2: no prediction, observed 0.900. because c",
    ]
    assert ledger_digest(HISTORY, []) == "no experiment yet"
    assert "secret" not in ledger_digest(HISTORY, range(4))


def test_a_result_has_every_seed_the_best_and_where_the_figures_differ() -> None:
    summaries = {"candidate": {"mean_held": 1.0, "ttft": None}, "reference": {"mean_held": 0.25}}
    text = experiment_result(HISTORY, 0, summaries)
    assert "candidate 0: 0.800 times the reference's metric (below 1 is better); predicted 0.900" in text
    assert "by seed: 0.800, 0.800" in text
    assert "mean_held: 1 (reference 0.25)" in text
    assert "best so far: candidate 0" in text


def test_a_failure_tells_its_reason_and_a_spent_budget_is_said() -> None:
    assert "candidate 1 failed and counts as spent: breaks the contract: line 3" in experiment_result(HISTORY, 1, {})
    assert "the budget is spent" in experiment_result(HISTORY, 3, {})


def test_findings_are_numbered() -> None:
    assert findings_text([]) == "none yet"
    assert findings_text([Finding("F1", "why?", "so")]) == "F1. why?: so"
