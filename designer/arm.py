"""One proposer spending one budget: batches of candidates, each batch thinned out over more and more train seeds.

Successive halving (Jamieson and Talwalkar, AISTATS 2016): all of a batch on one seed, the better part on more, the
best on all. The seeds rotate with the batch, so that no seed decides for ever which candidates live. The unit of the
budget is one policy on one seed; what failed is paid for too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.ledger import CandidateRecord, Ledger
from designer.proposers.protocol import History, NoProposalError, Outcome, Proposal, Proposer, log_ratio
from designer.subject import Subject, subject_of_source
from policies.conformance import check_source

BATCH = 8
"""Candidates a batch."""
_KEEP = 3
"""One of so many goes on to the next rung."""
_NEAR = math.log(1.01)
"""What is worse than the best so far by more than this, on the seeds both have, is not tried on more seeds."""

_WORTH_ALL_SEEDS = math.log(0.97)
"""What beats the reference by less is not tried on all the seeds: something better is sure to come."""


@dataclass(frozen=True, slots=True)
class Progress:
    """For a progress line and the report's best-so-far curve."""

    arm: str
    spent: int
    budget: int
    best_effect: float | None
    """Log-ratio of the incumbent to the reference on the seeds it has; below 0 is better."""
    num_candidates: int

    @property
    def best_ratio(self) -> float | None:
        return None if self.best_effect is None else math.exp(self.best_effect)


class Arm:
    """Runs one proposer to the end of its budget, and keeps its history."""

    def __init__(
        self,
        name: str,
        proposer: Proposer,
        budget: int,
        train_seeds: Sequence[int],
        reference: Mapping[int, float],
        evaluator: Evaluator,
        ledger: Ledger,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.name = name
        self.spent = 0
        self.curve: list[tuple[int, float]] = []
        """(simulations spent, log-ratio of the incumbent) after each rung."""
        self._proposer = proposer
        self._budget = budget
        self._seeds = tuple(train_seeds)
        self._reference = reference
        self._evaluator = evaluator
        self._ledger = ledger
        self._on_progress = on_progress
        self._outcomes: list[Outcome] = []

    @property
    def history(self) -> History:
        return History(self._reference, tuple(self._outcomes), self.spent)

    def run(self) -> None:
        """Spend the whole budget, or as much of it as the proposer has candidates for."""
        generation = 0
        while self.spent < self._budget and self._generation(generation):
            generation += 1

    def finalists(self, count: int, bar: float = 0.0) -> list[Outcome]:
        """The best of those whose log-ratio to the reference is below ``bar``, best first.

        With none below it, the one best that beats the reference at all: every finalist more makes the validation of
        the others harder. A candidate tried on one seed alone comes last.
        """
        history = self.history
        scored = [(len(o.scores) < 2, history.effect(o), o) for o in self._distinct() if o.status == "scored"]
        better = sorted((entry for entry in scored if entry[1] < 0), key=lambda entry: entry[:2])
        worthy = [entry for entry in better if entry[1] < bar] or better[:1]
        return [outcome for _, _, outcome in worthy[:count]]

    def _distinct(self) -> list[Outcome]:
        """Every candidate once; of those that scored alike to the last digit, which decided alike, the shortest."""
        fullest = sorted(self._outcomes, key=lambda outcome: -len(outcome.scores))
        once: dict[str, Outcome] = {}
        for outcome in fullest:
            once.setdefault(outcome.proposal.candidate_hash, outcome)
        found: dict[object, Outcome] = {}
        for outcome in sorted(once.values(), key=lambda outcome: len(outcome.proposal.source)):
            found.setdefault(tuple(sorted(outcome.scores.items())), outcome)
        return list(found.values())

    def _generation(self, generation: int) -> bool:
        """One batch; False when the proposer had none."""
        first = len(self._outcomes)
        with contextlib.suppress(NoProposalError):
            for _ in range(min(getattr(self._proposer, "batch", BATCH), self._budget - self.spent)):
                self._propose(generation)
        alive = list(range(first, len(self._outcomes)))
        seeds = self._rotated(generation)
        done = 0
        for upto in _rungs(len(seeds)):
            self._try(alive, seeds[done:upto])
            alive = self._survivors(alive, on_all=upto > 1)
            done = upto
        return len(self._outcomes) > first

    def _rotated(self, generation: int) -> list[int]:
        """The train seeds, begun by another one each time, of those on which there is most to win."""
        by_weight = sorted(self._seeds, key=lambda seed: -self._reference[seed])
        turn = generation % math.ceil(len(by_weight) / 2)
        return [*by_weight[turn:], *by_weight[:turn]]

    def _propose(self, generation: int) -> None:
        proposal = self._proposer.propose(self.history)
        number = len(self._outcomes)
        self._ledger.add_subject(_subject(proposal))
        self._ledger.add_candidate(CandidateRecord(self.name, number, proposal, self._proposer.name, generation))
        self._outcomes.append(Outcome(proposal))

    def _try(self, alive: Sequence[int], seeds: Sequence[int]) -> None:
        """Candidate by candidate, as far as the budget goes: better some on all the seeds than all on some."""
        jobs: list[tuple[int, Job]] = []
        for index in alive:
            wanted = [(index, Job(_subject(self._outcomes[index].proposal), seed)) for seed in seeds]
            jobs += wanted[: self._budget - self.spent - len(jobs)]
        self._refuse([(index, job) for index, job in jobs if not self._outcomes[index].scores])
        runnable = [(index, job) for index, job in jobs if self._outcomes[index].status != "failed"]
        self.spent += len(jobs)
        records = self._evaluator.run("train", [job for _, job in runnable])
        for index in dict.fromkeys(index for index, _ in runnable):
            mine = [record for (at, _), record in zip(runnable, records, strict=True) if at == index]
            self._learn(index, scores_by_seed(mine), next((r.reason for r in mine if r.status == "failed"), ""))
        self._report()

    def _refuse(self, jobs: Sequence[tuple[int, Job]]) -> None:
        """What breaks the static rules is not run; it has cost its simulation."""
        for index, job in jobs:
            violations = check_source(job.subject.parts[0].source)
            if violations:
                self._evaluator.fail("train", job, f"breaks the contract: line {violations[0]}")
                self._learn(index, {}, f"breaks the contract: line {violations[0]}")

    def _learn(self, index: int, scores: Mapping[int, float], failure: str) -> None:
        before = self._outcomes[index]
        if failure:
            self._outcomes[index] = replace(before, status="failed", reason=failure)
        elif scores:
            self._outcomes[index] = replace(before, status="scored", scores={**before.scores, **scores})

    def _survivors(self, alive: Sequence[int], *, on_all: bool) -> list[int]:
        """The best third, of those that are near the best so far and did not score exactly as another did.

        What is to be tried on all the seeds must be better than the best so far, and beat the reference.
        """
        history = self.history
        best = history.incumbent()
        if best is None:
            return []
        bar = log_ratio(best.scores, self._reference) + (0.0 if on_all else _NEAR)
        bar = min(bar, _WORTH_ALL_SEEDS if on_all else 0.0)
        kept = {id(outcome) for outcome in self._distinct()}
        scored = [i for i in alive if self._outcomes[i].status == "scored" and id(self._outcomes[i]) in kept]
        effects = {i: history.effect(self._outcomes[i]) for i in scored if not self._repeats(i)}
        ranked = sorted((effect, i) for i, effect in effects.items() if effect <= bar)
        return [i for _, i in ranked[: math.ceil(len(alive) / _KEEP)]]

    def _repeats(self, index: int) -> bool:
        """Whether an older candidate with more seeds scored the same on all of this one's."""
        mine = self._outcomes[index].scores.items()
        return any(mine < other.scores.items() for other in self._outcomes[:index])

    def _report(self) -> None:
        best = self.history.incumbent()
        effect = None if best is None else log_ratio(best.scores, self._reference)
        if effect is not None:
            self.curve.append((self.spent, effect))
        self._on_progress(Progress(self.name, self.spent, self._budget, effect, len(self._outcomes)))


def _rungs(num_seeds: int) -> list[int]:
    """After how many seeds a batch is thinned out: 1, 3, 8 for eight."""
    return sorted({1, min(3, num_seeds), num_seeds})


def _subject(proposal: Proposal) -> Subject:
    return subject_of_source(proposal.source, f"candidate-{proposal.candidate_hash[:12]}")
