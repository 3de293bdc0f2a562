"""A candidate from outside the search: the same checks, the same sandbox, the same train seeds, the same ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.ledger import CandidateRecord, Ledger, LedgerError, RunRecord, seed_of
from designer.proposers.protocol import Proposal, log_ratio
from designer.sandbox import Sandbox
from designer.simulator.scenario import Scenario
from designer.subject import Subject, subject_of_source
from policies.conformance import check_source
from policies.loader import PolicyLoadError
from policies.source_file import read_source

ARM = "hand"
"""Of such candidates in the ledger."""


@dataclass(frozen=True, slots=True)
class HandOutcome:
    """What was expected and what came."""

    number: int
    """In the arm ``hand``."""
    candidate_hash: str
    reference: str
    predicted: float | None
    observed: float | None
    """Mean ratio to the reference on the train seeds; None: it failed."""
    ratios: Mapping[int, float] = field(default_factory=dict)
    """By seed."""
    reason: str = ""
    """Of the failure."""

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate": self.number,
            "candidate_hash": self.candidate_hash,
            "reference": self.reference,
            "predicted": self.predicted,
            "observed": self.observed,
            "ratios": {str(seed): ratio for seed, ratio in self.ratios.items()},
            "status": "failed" if self.reason else "scored",
            "reason": self.reason,
        }


def propose_by_hand(
    run: Path,
    file: Path,
    hypothesis: str,
    predicted: float | None,
    *,
    jobs: int = 2,
    say: Callable[[str], None] = lambda line: None,
) -> HandOutcome:
    """Measure it on every train seed; what is known already is not simulated again.

    Raises:
        LedgerError: there is no such run, or its scenario has changed; PolicyLoadError: the file cannot be read.
    """
    proposal = Proposal(_read(file), hypothesis, _sensible(predicted))
    subject = subject_of_source(proposal.source, f"hand-{proposal.candidate_hash[:12]}")
    with Ledger.open(run) as ledger:
        record = ledger.run()
        scenario = Scenario.model_validate_json(record.scenario)
        if scenario.digest != record.scenario_hash:
            raise LedgerError(f"{ledger.path}: a file the scenario names has changed since the run began")
        number = _enter(ledger, proposal, subject)
        with Sandbox(scenario, jobs=jobs, deadline_seconds=float(record.settings["deadline_seconds"])) as sandbox:
            evaluator = Evaluator(ledger, sandbox, record.scenario_hash)
            outcome = HandOutcome(number, proposal.candidate_hash, _reference(record), proposal.predicted_effect, None)
            if violations := check_source(proposal.source):
                reason = f"breaks the contract: line {violations[0]}"
                evaluator.fail("train", Job(subject, _train_seeds(record)[0]), reason)
                return replace(outcome, reason=reason)
            say(f"sandbox: {', '.join(sandbox.layers())}")
            return _measure(record, evaluator, ledger.named(_reference(record)), subject, outcome)


def _read(file: Path) -> str:
    try:
        return read_source(file).decode("utf-8")
    except OSError as error:
        raise PolicyLoadError(f"{file}: {error.strerror}; name a readable .py file") from None
    except UnicodeDecodeError:
        raise PolicyLoadError(f"{file}: not UTF-8; save the file as UTF-8") from None


def _sensible(predicted: float | None) -> float | None:
    if predicted is not None and not 0 < predicted < math.inf:
        raise PolicyLoadError(f"--predict {predicted}: a ratio to the reference, above 0; 0.9 is a tenth lower")
    return predicted


def _enter(ledger: Ledger, proposal: Proposal, subject: Subject) -> int:
    """Its number; proposed again with the same words, it keeps the one it has."""
    entered = list(ledger.candidates(ARM))
    for record in entered:
        known = record.proposal
        if (known.source, known.hypothesis, known.predicted_effect) == (
            *(proposal.source, proposal.hypothesis, proposal.predicted_effect),
        ):
            return record.number
    ledger.add_subject(subject)
    ledger.add_candidate(CandidateRecord(ARM, len(entered), proposal, ARM, 0))
    return len(entered)


def _reference(run: RunRecord) -> str:
    return str(run.settings["baselines"][0])


def _train_seeds(run: RunRecord) -> list[int]:
    return [seed_of(f"{run.settings['seed']}", "train", n) for n in range(run.settings["protocol"]["train_seeds"])]


def _measure(
    run: RunRecord, evaluator: Evaluator, reference: Subject, subject: Subject, outcome: HandOutcome
) -> HandOutcome:
    seeds = _train_seeds(run)
    records = evaluator.run("train", [Job(policy, seed) for policy in (reference, subject) for seed in seeds])
    others, mine = records[: len(seeds)], records[len(seeds) :]
    if failed := next((record.reason for record in mine if record.status == "failed"), ""):
        return replace(outcome, reason=failed)
    scores, bar = scores_by_seed(mine), scores_by_seed(others)
    ratios = {seed: scores[seed] / bar[seed] for seed in seeds}
    return replace(outcome, observed=math.exp(log_ratio(scores, bar)), ratios=ratios)
