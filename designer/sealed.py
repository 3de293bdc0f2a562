"""From finalists to a verdict: validation on fresh seeds, one frozen test, sealed seeds drawn only then.

The statistics are those of ``designer.statistics``: the unit is a seed, the effect the mean paired log-ratio. What is
tested, against what, by which metric and margin is written to the ledger before the sealed seeds exist; they are keyed
by the run's secret and the hash of the frozen policy. An undecided test may be doubled once, and every look spends its
share of alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from designer.evaluations import Evaluator, Job, scores_by_seed
from designer.ledger import FrozenRecord, Ledger, Split, seed_of
from designer.sandbox import Tier
from designer.statistics import PairedEffect, holm, log_ratios, paired_effect, sign_flip_p
from designer.subject import Subject

Verdict = Literal["better", "worse", "undecided", "nothing better"]
_VALIDATION_ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Protocol:
    """How large the test is. The defaults are for results that are published; a demonstration may take fewer seeds."""

    train_seeds: int = 8
    validation_seeds: int = 32
    finalists: int = 5
    sealed_seeds: int = 64
    margin: float = 0.02
    """Relative: better means at least this much lower."""
    alpha: float = 0.01
    """Of the sealed test, over all its looks."""
    max_looks: int = 2

    def problem(self) -> str:
        """Why no test of this size can succeed, with the fix; empty when it can."""
        if min(self.train_seeds, self.finalists, self.max_looks) < 1 or not 0 < self.margin < 1:
            return "train seeds, finalists and looks must be at least 1, the margin between 0 and 1"
        least = _fewest_seeds(self.alpha / self.max_looks)
        if self.sealed_seeds < least:
            return f"{self.sealed_seeds} sealed seeds can never show p < {self.alpha / self.max_looks:g}; take {least}"
        least = _fewest_seeds(2.0 * _VALIDATION_ALPHA / self.finalists)
        if self.validation_seeds < least:
            return (
                f"{self.validation_seeds} validation seeds cannot tell {self.finalists} finalists apart; "
                f"take {least}, or fewer finalists"
            )
        return ""


@dataclass(frozen=True, slots=True)
class Scored:
    """A policy with its metric on the seeds of a split."""

    subject: Subject
    scores: Mapping[int, float]
    failure: str = ""


class Judge:
    """Validation and sealed test of one run."""

    def __init__(
        self,
        protocol: Protocol,
        metric: str,
        secret: str,
        ledger: Ledger,
        evaluator: Evaluator,
        on_done: Callable[[str, int], None] = lambda phase, total: None,
    ) -> None:
        self._protocol = protocol
        self._metric = metric
        self._secret = secret
        self._ledger = ledger
        self._evaluator = evaluator
        self._on_done = on_done

    def validate(
        self,
        finalists: Sequence[Subject],
        baselines: Sequence[Subject],
        controls: Mapping[str, Subject] | None = None,
        *,
        failed_before: Sequence[Mapping[str, str]] = (),
    ) -> FrozenRecord | None:
        """Score on fresh seeds, pick the comparator and the winner, and freeze; None when none is better.

        ``controls``, by arm, are scored as well and reported, so that a run without a winner still says what every arm
        found. A baseline that fails cannot be the comparator, and the claim is the weaker for it: it is written down as
        not compared, with those that failed on the train seeds (``failed_before``: label, digest, failure).

        The comparator is the best of the baselines. A finalist goes on if it is better than the comparator with
        a Holm-adjusted one-sided p below 0.05; of those, the best.
        """
        seeds = [seed_of(self._secret, "validation", n) for n in range(self._protocol.validation_seeds)]
        shown = list((controls or {}).values())
        scored = self.score("validation", [*finalists, *baselines, *shown], seeds)
        ours, theirs = scored[: len(finalists)], scored[len(finalists) : len(finalists) + len(baselines)]
        missing = [*map(dict, failed_before), *(_failure_json(entry) for entry in theirs if entry.failure)]
        theirs = [entry for entry in theirs if not entry.failure]
        if not theirs:
            content = {"error": "every baseline failed", "winner": None, "not_compared": missing}
            self._ledger.add_result("validation", content)
            return None
        comparator = min(theirs, key=lambda entry: _mean_log(entry.scores))
        passed, rows = self._compared([entry for entry in ours if not entry.failure], comparator)
        winner = min(passed, key=lambda pair: pair[0])[1] if passed else None
        failed = [_failure_json(entry) for entry in scored if entry.failure]
        beside = dict(zip(controls or {}, scored[len(scored) - len(shown) :], strict=True))
        self._ledger.add_result(
            "validation",
            {
                "comparator": comparator.subject.digest,
                "comparator_label": comparator.subject.label,
                "finalists": rows,
                "failed": failed,
                "not_compared": missing,
                "controls": {arm: _control_json(entry, comparator) for arm, entry in beside.items()},
                "winner": None if winner is None else winner.subject.digest,
            },
        )
        return None if winner is None else self._freeze(winner.subject, comparator.subject)

    def _compared(
        self, alive: Sequence[Scored], comparator: Scored
    ) -> tuple[list[tuple[float, Scored]], list[dict[str, Any]]]:
        """Those that are better than the comparator with their ratios, and a row for each."""
        effects = [effect_of(entry, comparator) for entry in alive]
        adjusted = holm([_p_better(entry, comparator) for entry in alive])
        triples = list(zip(alive, effects, adjusted, strict=True))
        passed = [(e.ratio, entry) for entry, e, p in triples if e.ratio < 1.0 and p < _VALIDATION_ALPHA]
        return passed, [{**effect_json(e), "digest": entry.subject.digest, "adjusted_p": p} for entry, e, p in triples]

    def _freeze(self, winner: Subject, comparator: Subject) -> FrozenRecord:
        protocol = self._protocol
        record = FrozenRecord(
            digest=winner.digest,
            comparator=comparator.digest,
            metric=self._metric,
            margin=protocol.margin,
            alpha=protocol.alpha,
            num_seeds=protocol.sealed_seeds,
            max_looks=protocol.max_looks,
        )
        self._ledger.freeze(record)
        return record

    def seal(self, frozen: FrozenRecord, others: Sequence[Subject]) -> Verdict:
        """The one test of the run; ``others`` are scored on the same seeds and reported, not tested.

        Another look follows only where seeds may decide it: a policy that failed fails on the same seeds again.
        """
        verdict: Verdict = "undecided"
        for look in range(1, frozen.max_looks + 1):
            verdict, is_failed = self._look(frozen, others, look)
            if verdict != "undecided" or is_failed:
                break
        return verdict

    def _look(self, frozen: FrozenRecord, others: Sequence[Subject], look: int) -> tuple[Verdict, bool]:
        """Its verdict, and whether the winner or the comparator failed."""
        seeds = [seed_of(self._secret, "sealed", n, frozen.digest) for n in range(frozen.num_seeds * look)]
        winner, comparator = self._ledger.subject(frozen.digest), self._ledger.subject(frozen.comparator)
        scored = self.score("sealed", [winner, comparator, *others], seeds)
        alpha = frozen.alpha / frozen.max_looks
        content: dict[str, Any] = {
            "look": look,
            "alpha": alpha,
            "failed": [_failure_json(entry) for entry in scored if entry.failure],
            "not_compared": (self._ledger.result("validation") or {}).get("not_compared", []),
        }
        if scored[0].failure or scored[1].failure:
            verdict: Verdict = "worse" if scored[0].failure else "undecided"
            self._ledger.add_result(f"sealed {look}", {**content, "verdict": verdict, "error": _why_none(scored)})
            return verdict, True
        effect = effect_of(scored[0], scored[1], 1.0 - alpha)
        verdict = look_verdict(effect, frozen.margin, alpha)
        content |= {**effect_json(effect), "verdict": verdict, "mean": _mean(scored[0].scores)}
        rows = [_against(scored[0], other, alpha) for other in scored[1:] if not other.failure]
        self._ledger.add_result(f"sealed {look}", {**content, "against": rows})
        return verdict, False

    def score(self, split: Split, subjects: Sequence[Subject], seeds: Sequence[int]) -> list[Scored]:
        """Every policy on every seed. A policy that is not one of the package's own runs in a process of its own."""
        jobs = [Job(subject, seed, tier_of(subject)) for seed in seeds for subject in subjects]
        total = len(jobs)
        records = self._evaluator.run(split, jobs, lambda: self._on_done(split, total))
        by_subject = [records[n :: len(subjects)] for n in range(len(subjects))]
        return [
            Scored(subject, scores_by_seed(mine), next((r.reason for r in mine if r.status == "failed"), ""))
            for subject, mine in zip(subjects, by_subject, strict=True)
        ]


def look_verdict(effect: PairedEffect, margin: float, alpha: float) -> Literal["better", "worse", "undecided"]:
    """Of one look, whose intervals have the level ``1 - alpha``: intervals clear of the margin and p below alpha."""
    return effect.verdict(margin) if effect.p_value < alpha else "undecided"


def _against(winner: Scored, other: Scored, alpha: float) -> dict[str, Any]:
    return {
        **effect_json(effect_of(winner, other, 1.0 - alpha)),
        "digest": other.subject.digest,
        "label": other.subject.label,
        "mean": _mean(other.scores),
    }


def _failure_json(entry: Scored) -> dict[str, str]:
    return {"label": entry.subject.label, "digest": entry.subject.digest, "failure": entry.failure}


def _why_none(scored: Sequence[Scored]) -> str:
    winner, comparator = scored[:2]
    if winner.failure:
        return f"the winner failed: {winner.failure}"
    return f"the comparator {comparator.subject.label} failed, so nothing is claimed against it: {comparator.failure}"


def tier_of(subject: Subject) -> Tier:
    """Where a score that counts comes from: the package's own policies need no second process."""
    return "together" if subject.trusted else "lockstep"


def effect_of(entry: Scored, other: Scored, confidence: float = 0.95) -> PairedEffect:
    seeds = sorted(entry.scores.keys() & other.scores.keys())
    return paired_effect([entry.scores[s] for s in seeds], [other.scores[s] for s in seeds], confidence)


def _control_json(entry: Scored, comparator: Scored) -> dict[str, Any]:
    if entry.failure:
        return {"digest": entry.subject.digest, "failure": entry.failure}
    return {**effect_json(effect_of(entry, comparator)), "digest": entry.subject.digest}


def _p_better(entry: Scored, other: Scored) -> float:
    """One-sided: validation asks only whether to go on, and the sealed test is two-sided whatever comes."""
    seeds = sorted(entry.scores.keys() & other.scores.keys())
    return sign_flip_p(log_ratios([entry.scores[s] for s in seeds], [other.scores[s] for s in seeds]), "less")


def effect_json(effect: PairedEffect) -> dict[str, Any]:
    """Ratios, not logarithms; below 1 is better."""
    return {
        "num_seeds": effect.num_seeds,
        "ratio": effect.ratio,
        "t_interval": [effect.t_interval.low, effect.t_interval.high],
        "bca_interval": [effect.bca_interval.low, effect.bca_interval.high],
        "p_value": effect.p_value,
        "num_worse": effect.num_worse,
        "worst_ratio": effect.worst_ratio,
    }


def _fewest_seeds(alpha: float) -> int:
    """With all signs alike the two-sided sign-flip p of n seeds is ``2 / 2**n``, the one-sided half of that."""
    return math.floor(math.log2(2.0 / alpha)) + 1


def _mean(scores: Mapping[int, float]) -> float:
    """Arithmetic, in the metric's own unit: for people. What is tested are ratios."""
    return sum(scores.values()) / len(scores)


def _mean_log(scores: Mapping[int, float]) -> float:
    return sum(math.log(score) for score in scores.values()) / len(scores)
