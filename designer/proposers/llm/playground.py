"""The simulator as a context may use it: figures of what was simulated, and its requests, repeated in the sandbox."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping
from typing import Any

from designer.ledger import Ledger
from designer.proposers.llm.records import Records, RecordsError
from designer.proposers.llm.settings import Caps
from designer.proposers.protocol import History, Outcome
from designer.sandbox import Sandbox
from designer.subject import Subject, subject_of_source, subject_of_specs

ANALYSIS_EVENT = "analysis simulation"


class SimulatorPlayground:
    """Of one run; train seeds only."""

    def __init__(self, ledger: Ledger, sandbox: Sandbox, reference: str, budget: int, caps: Caps) -> None:
        self._ledger = ledger
        self._sandbox = sandbox
        self._reference = subject_of_specs(reference)
        self._budget = budget
        self._cap = caps.analysis_simulations
        self._train_seeds: tuple[int, ...] = ()
        self._kept: dict[tuple[str, int], bytes] = {}
        """Every answer, compressed: there are no more than the cap allows."""
        self._one_at_a_time = asyncio.Lock()
        """Conversations side by side must not pass the cap together, nor have the same simulated twice."""

    def simulations_left(self, history: History) -> int:
        """Of the search's budget, as the search counts."""
        self._train_seeds = tuple(history.reference)
        return max(0, self._budget - history.spent)

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
        async with self._one_at_a_time:
            columns = {label: await self._columns(subject, seed) for label, subject in wanted.items()}
        records = Records()
        try:
            for label, found in columns.items():
                records.add_policy(label, found)
        except RecordsError:
            records.close()
            raise
        return records

    async def _columns(self, subject: Subject, seed: int) -> Mapping[str, Any]:
        """Simulated once, and kept. What an earlier process of this run was granted is granted again."""
        key = subject.digest, seed
        if key not in self._kept:
            granted = {(content["digest"], content["seed"]) for _, content in self._ledger.events(ANALYSIS_EVENT)}
            if key not in granted and len(granted) >= self._cap:
                raise RecordsError(f"the cap of {self._cap} analysis simulations is reached")
            again = {"again": True} if key in granted else {}
            self._ledger.add_event(ANALYSIS_EVENT, {"digest": subject.digest, "seed": seed, **again})
            answer = await asyncio.to_thread(self._sandbox.columns, subject, seed)
            self._kept[key] = zlib.compress(json.dumps(answer).encode())
        found = json.loads(zlib.decompress(self._kept[key]))
        if isinstance(found, str):
            raise RecordsError(f"the simulation could not be repeated: {found}")
        return dict(found)
