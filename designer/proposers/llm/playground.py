"""The simulator as a context may use it: figures of what was simulated, and its requests, repeated in the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from designer.ledger import Ledger
from designer.proposers.llm.records import Records, RecordsError
from designer.proposers.llm.settings import Caps
from designer.proposers.protocol import History, Outcome
from designer.sandbox import Sandbox
from designer.subject import Subject, subject_of_source, subject_of_specs

ANALYSIS_EVENT = "analysis simulation"
_KEPT = 4
"""Results of simulations that are kept for further questions."""


class SimulatorPlayground:
    """Of one run; train seeds only."""

    def __init__(self, ledger: Ledger, sandbox: Sandbox, reference: str, budget: int, caps: Caps) -> None:
        self._ledger = ledger
        self._sandbox = sandbox
        self._reference = subject_of_specs(reference)
        self._budget = budget
        self._cap = caps.analysis_simulations
        self._train_seeds: tuple[int, ...] = ()
        self._kept: dict[tuple[str, int], Mapping[str, Any]] = {}

    def simulations_left(self, history: History) -> int:
        """Of the search's budget; a failure is counted with one simulation more than it has scores."""
        self._train_seeds = tuple(history.reference)
        spent = sum(len(o.scores) + (o.status == "failed") for o in history.outcomes)
        return max(0, self._budget - spent)

    def summaries(self, outcome: Outcome) -> Mapping[str, Mapping[str, Any]]:
        """Of the first seed the candidate has a score on; empty without one."""
        if not outcome.scores:
            return {}
        seed = min(outcome.scores)
        subjects = {"candidate": subject_of_source(outcome.proposal.source, ""), "reference": self._reference}
        found = {name: self._ledger.evaluation(s.digest, "train", seed, "together") for name, s in subjects.items()}
        return {name: record.summary for name, record in found.items() if record is not None}

    async def records(self, outcome: Outcome | None, name: str) -> Records:
        """
        Raises:
            RecordsError: the candidate has no score, the cap is reached, or the simulation gives nothing.
        """
        if outcome is not None and not outcome.scores:
            raise RecordsError("this candidate has not been simulated to the end")
        seed = min(outcome.scores) if outcome is not None else min(self._train_seeds)
        wanted = {"reference": self._reference}
        if outcome is not None:
            wanted[name] = subject_of_source(outcome.proposal.source, "candidate")
        columns = {label: await asyncio.to_thread(self._columns, subject, seed) for label, subject in wanted.items()}
        records = Records()
        try:
            for label, found in columns.items():
                records.add_policy(label, found)
        except RecordsError:
            records.close()
            raise
        return records

    def _columns(self, subject: Subject, seed: int) -> Mapping[str, Any]:
        key = subject.digest, seed
        if key in self._kept:
            return self._kept[key]
        if len(list(self._ledger.events(ANALYSIS_EVENT))) >= self._cap:
            raise RecordsError(f"the cap of {self._cap} analysis simulations is reached")
        self._ledger.add_event(ANALYSIS_EVENT, {"digest": subject.digest, "seed": seed})
        answer = self._sandbox.columns(subject, seed)
        if isinstance(answer, str):
            raise RecordsError(f"the simulation could not be repeated: {answer}")
        while len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = answer
        return answer
