"""What is known of the candidates so far, in words without code: for Researcher, Supervisor and later contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from designer.proposers.protocol import History, Outcome

_LONGEST = 400
_FIGURES = (
    *("mean_response_time", "p99_response_time", "mean_ttft", "p99_ttft", "mean_held", "held_share"),
    *("preempted_share", "num_recomputed_tokens", "cached_share", "goodput", "worker_seconds"),
)
"""Of a simulation's summary, what an author is shown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an Analyst found, with its figures."""

    identity: str
    """``F1``, …, in a context."""
    question: str
    text: str


def observed(history: History, outcome: Outcome) -> float | None:
    """The ratio to the reference; None without a score."""
    return math.exp(history.effect(outcome)) if outcome.status == "scored" else None


def experiment_rows(history: History, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    """number, hypothesis, predicted, observed, status, reason."""
    rows = []
    for number in numbers:
        outcome = history.outcomes[number]
        proposal = outcome.proposal
        ratio = observed(history, outcome)
        rows.append((number, proposal.hypothesis, proposal.predicted_effect, ratio, outcome.status, outcome.reason))
    return rows


def ledger_digest(history: History, numbers: Sequence[int]) -> str:
    """One line an experiment."""
    return digest_of(experiment_rows(history, numbers))


def digest_of(rows: Sequence[tuple[Any, ...]]) -> str:
    """The same, of rows of ``experiment_rows``."""
    lines = [experiment_line(*row) for row in rows]
    return "\n".join(lines) or "no experiment yet"


def experiment_line(
    number: int, hypothesis: str, predicted: float | None, ratio: float | None, status: str, reason: str
) -> str:
    said = "no prediction" if predicted is None else f"predicted {predicted:.3f}"
    got = f"observed {ratio:.3f}" if ratio is not None else f"failed: {_short(reason)}" if reason else status
    return f"candidate {number}: {said}, {got}. {_short(hypothesis)}"


def experiment_result(
    history: History,
    number: int,
    summaries: Mapping[str, Mapping[str, Any]],
) -> str:
    """The answer to ``run_experiment``.

    Args:
        summaries: of one simulation on the same seed, of the candidate and of the reference, by these names.
    """
    outcome = history.outcomes[number]
    if outcome.status == "failed":
        return (
            f"candidate {number} failed and counts as spent: {_short(outcome.reason)}\n"
            "Nothing but the contract can be used; correct it and try again."
        )
    if outcome.status == "proposed":
        return f"candidate {number} was not simulated: the budget is spent."
    ratio, predicted = observed(history, outcome), outcome.proposal.predicted_effect
    best = history.incumbent()
    best_number = next((n for n, other in enumerate(history.outcomes) if other is best), number)
    lines = [
        f"candidate {number}: {ratio:.3f} times the reference's metric (below 1 is better)"
        + ("" if predicted is None else f"; predicted {predicted:.3f}"),
        "by seed: " + ", ".join(f"{outcome.scores[s] / history.reference[s]:.3f}" for s in sorted(outcome.scores)),
        f"best so far: candidate {best_number}",
        *_compared(summaries),
    ]
    return "\n".join(lines)


def _compared(summaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    mine, other = summaries.get("candidate", {}), summaries.get("reference", {})
    return [
        f"{name}: {mine[name]:.5g} (reference {other[name]:.5g})"
        for name in _FIGURES
        if isinstance(mine.get(name), int | float) and isinstance(other.get(name), int | float)
    ]


def findings_text(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{f.identity}. {f.question}: {f.text}" for f in findings) or "none yet"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
