"""Evaluations, each paid for once: what the ledger has is not simulated again; what is new is written before use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from designer.executor import Runner
from designer.ledger import EvaluationRecord, Ledger, LedgerError, Split
from designer.sandbox import Evaluation, Task, Tier
from designer.subject import Subject


@dataclass(frozen=True, slots=True)
class Job:
    """One policy on one seed of a split."""

    subject: Subject
    seed: int
    tier: Tier = "together"
    expected_decisions: str = ""
    expected_score: float | None = None


class Evaluator:
    """Has jobs run; deterministic in what it returns, whatever the ledger holds already."""

    def __init__(self, ledger: Ledger, runner: Runner, scenario_hash: str) -> None:
        self._ledger = ledger
        self._runner = runner
        self._scenario_hash = scenario_hash

    def run(
        self, split: Split, jobs: Sequence[Job], on_done: Callable[[], None] = lambda: None
    ) -> list[EvaluationRecord]:
        """The outcome of every job, in order. Jobs that say the same are done once."""
        unique = {(job.subject.digest, job.seed, job.tier): job for job in jobs}
        missing = [job for job in unique.values() if self._known(split, job) is None]
        for _ in range(len(jobs) - len(missing)):
            on_done()
        for job in missing:
            self._ledger.add_subject(job.subject)
        self._runner.run([_task(job) for job in missing], lambda done: self._write(split, done, on_done))
        return [self._found(split, job) for job in jobs]

    def fail(self, split: Split, job: Job, reason: str) -> EvaluationRecord:
        """Write a failure that needed no simulation; it costs one all the same."""
        if self._known(split, job) is None:
            self._ledger.add_subject(job.subject)
            evaluation = Evaluation(_task(job), "failed", reason=reason)
            self._ledger.add_evaluation(split, self._scenario_hash, evaluation)
        return self._found(split, job)

    def _write(self, split: Split, done: Evaluation, on_done: Callable[[], None]) -> None:
        self._ledger.add_evaluation(split, self._scenario_hash, done)
        on_done()

    def _known(self, split: Split, job: Job) -> EvaluationRecord | None:
        return self._ledger.evaluation(job.subject.digest, split, job.seed, job.tier, self._scenario_hash)

    def _found(self, split: Split, job: Job) -> EvaluationRecord:
        record = self._known(split, job)
        if record is None:
            raise LedgerError(f"the evaluation of {job.subject.label} on seed {job.seed} was not written")
        return record


def scores_by_seed(records: Sequence[EvaluationRecord]) -> Mapping[int, float]:
    """Of the evaluations that gave a score."""
    return {record.seed: record.score for record in records if record.score is not None}


def _task(job: Job) -> Task:
    return Task(job.subject, job.seed, job.tier, job.expected_decisions, job.expected_score)
