"""What a finished (or unfinished) run has to say, computed from its ledger alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from designer.ledger import CandidateRecord, EvaluationRecord, FrozenRecord, Ledger, RunRecord
from designer.proposers.llm.account import Account, Row, account, conversation
from designer.proposers.protocol import History, Outcome, log_ratio
from designer.replay_evidence import judged, pairs_in
from designer.subject import subject_of_source
from designer.why import stored

TAILS = ("mean_response_time", "p50_response_time", "p99_response_time", "max_response_time", "p99_ttft", "max_ttft")
"""What is shown of every policy beside its metric, in seconds."""
RESULTS = ("ablation", "certificate", "swap in")
ARMS = ("search", "control", "tuned")
"""The search, random samples, tuned baselines."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate with what was observed."""

    record: CandidateRecord
    outcome: Outcome
    observed_effect: float | None
    """Estimated ratio of the metric to the reference's, on train seeds; None: it failed or was never scored."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything a report shows."""

    run: RunRecord
    layers: tuple[str, ...]
    entries: Mapping[str, tuple[Entry, ...]]
    """By arm, in the order they were proposed."""
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    """By arm: (simulations spent, ratio of the best so far to the reference)."""
    labels: Mapping[str, str]
    """Of every digest that was evaluated."""
    validation: Mapping[str, Any] | None
    sealed: tuple[Mapping[str, Any], ...]
    """One for each look."""
    frozen: FrozenRecord | None
    verdict: str | None
    """None: the run has not ended."""
    simulations: Mapping[str, int]
    wall_seconds: float
    winner_train_ratio: float | None
    """Of the winner to the comparator on the train seeds both have."""
    winner_source: str
    folder: Path = Path()
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What was found out besides, by kind: ablation, certificate, why."""
    replays: Mapping[str, Any] | None = None
    """What all replays of the winner through the real gateway say together; None: there was none."""
    account: Account | None = None
    """What models cost; None: none was asked."""
    said: tuple[Row, ...] = ()
    """What they said, in order."""
    builds: Mapping[str, str] = field(default_factory=dict)
    """Versions by name; several if the run went on under another."""
    tails: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By digest, ``TAILS`` of its sealed seeds, each the mean over them; what was not recorded is left out."""

    @property
    def selection_bias(self) -> float | None:
        """Sealed ratio over train ratio: above 1, the search flattered its winner."""
        if self.winner_train_ratio is None or not self.sealed or "ratio" not in self.sealed[-1]:
            return None
        return float(self.sealed[-1]["ratio"]) / self.winner_train_ratio

    def share_beating_reference(self, arm: str) -> float | None:
        """Of the arm's candidates, those with a lower metric than the reference on the train seeds they ran on."""
        entries = self.entries[arm]
        better = sum(1 for entry in entries if entry.observed_effect is not None and entry.observed_effect < 0.995)
        return better / len(entries) if entries else None

    def lineage(self) -> list[Entry]:
        """The winner, its first parent, that one's first parent, and so on."""
        known = {e.record.proposal.candidate_hash: e for entries in self.entries.values() for e in entries}
        chain: list[Entry] = []
        at = self.frozen.digest if self.frozen else ""
        while at in known and len(chain) < 100:
            chain.append(known[at])
            parents = known[at].record.proposal.parents
            at = parents[0] if parents else ""
        return chain


def read_findings(ledger: Ledger) -> Findings:
    """Of the run in this ledger."""
    run = ledger.run()
    evaluations = list(ledger.evaluations())
    train = _by_digest(e for e in evaluations if e.split == "train" and e.tier == "together")
    reference = _scores(train.get(_reference_digest(ledger, run), ()))
    entries = {arm: tuple(_entries(list(ledger.candidates(arm)), train, reference)) for arm in ARMS}
    frozen = ledger.frozen()
    started = [content for _, content in ledger.events("started")]
    verdict = ledger.result("verdict")
    return Findings(
        run=run,
        layers=tuple(started[-1]["layers"]) if started else (),
        entries=entries,
        curves={arm: _curve(ledger, arm) or _running_best(entries[arm]) for arm in ARMS},
        labels=_labels(ledger),
        validation=ledger.result("validation"),
        sealed=tuple(_looks(ledger)),
        frozen=frozen,
        verdict=None if verdict is None else str(verdict["verdict"]),
        simulations=_simulations(evaluations, entries),
        wall_seconds=sum(content["wall_seconds"] for _, content in ledger.events("finished")),
        winner_train_ratio=None if frozen is None else _train_ratio(frozen, train),
        winner_source="" if frozen is None else ledger.subject(frozen.digest).parts[0].source,
        folder=ledger.path.parent,
        results=_results(ledger),
        replays=judged(list(pairs_in(ledger))),
        account=spending if (spending := account(ledger)).roles else None,
        said=tuple(conversation(ledger)),
        builds=_builds([content.get("build", {}) for _, content in ledger.events("started")]),
        tails=_tails(_by_digest(e for e in evaluations if e.split == "sealed" and e.score is not None)),
    )


def _tails(sealed: Mapping[str, Sequence[EvaluationRecord]]) -> dict[str, dict[str, float]]:
    return {
        digest: {name: fmean(float(e.summary[name]) for e in mine) for name in TAILS if _all_tell(mine, name)}
        for digest, mine in sealed.items()
    }


def _all_tell(evaluations: Sequence[EvaluationRecord], name: str) -> bool:
    return all(isinstance(e.summary.get(name), int | float) for e in evaluations)


def _results(ledger: Ledger) -> dict[str, Mapping[str, Any]]:
    """By kind; of several explanations the one on the most seeds."""
    found = {kind: ledger.result(kind) for kind in RESULTS} | {"why": stored(ledger)}
    return {kind: content for kind, content in found.items() if content is not None}


def _builds(starts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for start in starts for name in start)
    return {name: ", then ".join(dict.fromkeys(start[name] for start in starts if name in start)) for name in names}


def _reference_digest(ledger: Ledger, run: RunRecord) -> str:
    return next((d for d, label in ledger.labels().items() if label == run.settings["baselines"][0]), "")


def _labels(ledger: Ledger) -> dict[str, str]:
    """A comparator that an arm found is called by its arm."""
    validation = ledger.result("validation") or {}
    named = {validation["comparator"]: validation["comparator_label"]} if "comparator" in validation else {}
    return {**ledger.labels(), **named}


def _by_digest(evaluations: Iterator[EvaluationRecord]) -> dict[str, list[EvaluationRecord]]:
    found: dict[str, list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        found.setdefault(evaluation.digest, []).append(evaluation)
    return found


def _scores(evaluations: Sequence[EvaluationRecord]) -> dict[int, float]:
    return {e.seed: e.score for e in evaluations if e.score is not None}


def _entries(
    records: Sequence[CandidateRecord],
    train: Mapping[str, Sequence[EvaluationRecord]],
    reference: Mapping[int, float],
) -> Iterator[Entry]:
    outcomes = [_outcome(record, train) for record in records]
    history = History(reference, tuple(outcomes))
    for record, outcome in zip(records, outcomes, strict=True):
        observed = math.exp(history.effect(outcome)) if outcome.status == "scored" and reference else None
        yield Entry(record, outcome, observed)


def _outcome(record: CandidateRecord, train: Mapping[str, Sequence[EvaluationRecord]]) -> Outcome:
    mine = train.get(subject_of_source(record.proposal.source, "").digest, ())
    failures = [e.reason for e in mine if e.status == "failed"]
    if failures:
        return Outcome(record.proposal, "failed", reason=failures[0])
    return Outcome(record.proposal, "scored" if mine else "proposed", _scores(mine))


def _curve(ledger: Ledger, arm: str) -> tuple[tuple[int, float], ...]:
    content = ledger.result(f"curve {arm}")
    points = content["points"] if content else ()
    return tuple((int(spent), math.exp(effect)) for spent, effect in points)


def _running_best(entries: Sequence[Entry]) -> tuple[tuple[int, float], ...]:
    """Of an arm that has not ended: candidate by candidate, as far as they are scored."""
    points, spent, best = list[tuple[int, float]](), 0, math.inf
    for entry in entries:
        spent += max(1, len(entry.outcome.scores))
        if entry.observed_effect is not None and entry.observed_effect < best:
            best = entry.observed_effect
            points.append((spent, best))
    return tuple(points)


def _looks(ledger: Ledger) -> Iterator[Mapping[str, Any]]:
    look = 1
    while (content := ledger.result(f"sealed {look}")) is not None:
        yield content
        look += 1


def _simulations(evaluations: Sequence[EvaluationRecord], entries: Mapping[str, Sequence[Entry]]) -> dict[str, int]:
    """By what they were for; a candidate that both arms proposed counts with the search."""
    owner = {entry.record.proposal.candidate_hash: arm for arm in reversed(ARMS) for entry in entries[arm]}
    counts: dict[str, int] = {}
    for evaluation in evaluations:
        arm = owner.get(evaluation.digest, "baselines")
        train = arm if evaluation.tier == "together" else "checks of finalists"
        kind = train if evaluation.split == "train" else evaluation.split
        counts[kind] = counts.get(kind, 0) + evaluation.simulations
    return counts


def _train_ratio(frozen: FrozenRecord, train: Mapping[str, Sequence[EvaluationRecord]]) -> float | None:
    winner, other = _scores(train.get(frozen.digest, ())), _scores(train.get(frozen.comparator, ()))
    return math.exp(log_ratio(winner, other)) if winner.keys() & other.keys() else None
