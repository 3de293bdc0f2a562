"""All replays of a run's winner judged together, by a rule that was fixed before any of them.

Whoever may replay as often as they like could go on until one replay suits them. So no replay is judged by itself:
every pair that was ever made counts, in the order in which they were made, and the test is one that may be looked at
after every pair. Of each question (see ``_QUESTIONS``) a wealth is kept: it begins at 1 and is multiplied by
``2 / (1 + exp(-2 b d))`` for every pair, ``d`` being how much the pair speaks for a contradiction, in logarithms, and
``b`` a bet from ``BETS``, over which the wealth is averaged. Where ``d`` is as likely ``-d`` (what the sign-flip test
assumes as well), no factor is above 1 in the mean, so the chance that the wealth *ever* reaches ``CONTRADICTED`` is at
most its reciprocal (Ville 1939; for such sums de la Pena, Annals of Probability 27, 1999). The evidence is the mean of
the wealths of all questions.

A contradiction stands until further pairs have brought the evidence down to ``OUTWEIGHED``: until everything that was
ever measured no longer speaks for it at all. What was replayed under other conditions (workers, speed, part of the
scenario) is judged by itself, so that pairs without any load outweigh nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from designer.ledger import Ledger
from designer.sealed import effect_json
from designer.statistics import paired_effect

LEAST_PAIRS = 5
"""Of fewer no evidence can reach ``CONTRADICTED``: it is at most doubled by a pair."""
CONTRADICTED = 20.0
"""One in twenty of the policies that keep what was promised are ever called contradicted, at most, under each set of
conditions."""
OUTWEIGHED = 1.0
TOLERANCE = 0.10
"""How much less favourable than simulated a ratio may come out, relative, before it counts as a contradiction."""
BETS = (1.0, 4.0, 16.0, 64.0, 256.0)
"""For differences of about 1, 1/4 ... of a logarithm: whatever the spread of the pairs, one of them suits it."""
LOST = math.log(2.0)
"""What a pair counts in which the winner alone lost requests, twice: as if it had taken twice as long."""
METRICS = ("ttft", "response_time")
STARTED = "replay pair started"
HALF = "replay half ended"
"""One of a pair's two policies was measured: what is left of a pair that is not ended."""
MAX_ABORTED = 2
"""With more pairs that were begun and not ended, under whatever conditions, promotion is refused: whoever stops the
pairs that go badly is not told apart from bad luck."""

Row = Mapping[str, Any]
"""A pair as the ledger has it: see ``docs/designer.md``."""


@dataclass(frozen=True, slots=True)
class Wealth:
    """Of one question after every pair."""

    after: tuple[float, ...]

    @classmethod
    def of(cls, differences: Sequence[float]) -> Wealth:
        d = np.outer(np.asarray(differences, dtype=np.float64), BETS)
        logs = np.cumsum(math.log(2.0) - np.logaddexp(0.0, -2.0 * d), axis=0)
        return cls(tuple(np.exp(logs).mean(axis=1).tolist()))


def pair_result(number: int) -> str:
    """The kind of the result that a pair is in the ledger."""
    return f"replay pair {number}"


def pairs_in(ledger: Ledger) -> Iterator[Row]:
    """Every pair that was begun, in order; one that was not ended has the state ``aborted`` and what was measured."""
    halves: dict[int, dict[str, Any]] = {}
    for _, half in ledger.events(HALF):
        halves.setdefault(int(half["number"]), {})[str(half["role"])] = half["figures"]
    for number, (_, begun) in enumerate(ledger.events(STARTED), 1):
        aborted = {"number": number, "state": "aborted", "conditions": begun.get("conditions")}
        yield ledger.result(pair_result(number)) or {**aborted, "measured": halves.get(number, {})}


def num_started(ledger: Ledger) -> int:
    return sum(1 for _ in ledger.events(STARTED))


def judged(pairs: Sequence[Row]) -> dict[str, Any] | None:
    """What all replays together say; None if there was none."""
    if not pairs:
        return None
    ended = [pair for pair in pairs if pair["state"] != "aborted"]
    aborted = [pair for pair in pairs if pair["state"] == "aborted"]
    key = _conditions_key
    by_conditions = [list(group) for _, group in groupby(sorted(ended, key=key), key)]
    conditions = [_condition(sorted(group, key=lambda pair: int(pair["number"]))) for group in by_conditions]
    said = [one["sentence"] for one in conditions] or ["No pair was ended."]
    return {
        "conditions": conditions,
        "pairs": sum(one["pairs"] for one in conditions),
        "invalid": sum(one["invalid"] for one in conditions),
        "aborted": len(aborted),
        "aborted_pairs": [_aborted(pair) for pair in aborted],
        "sentence_of_aborted": _said_of_aborted(aborted) if aborted else "",
        "contradicts": any(one["contradicts"] for one in conditions),
        "sentence": " ".join([*said, *([_said_of_aborted(aborted)] if aborted else [])]),
    }


def contradiction_in(replays: Mapping[str, Any] | None) -> str:
    """The sentence if they contradict the simulator; else empty."""
    return str(replays["sentence"]) if replays is not None and replays["contradicts"] else ""


def too_many_aborted(replays: Mapping[str, Any] | None) -> str:
    """A sentence if there are more of them than ``MAX_ABORTED``; else empty."""
    if replays is None or replays["aborted"] <= MAX_ABORTED:
        return ""
    return (
        f"{replays['aborted']} replay pairs were begun and not ended, and at most {MAX_ABORTED} may be: pairs that "
        "were stopped because they went badly would look the same."
    )


def _aborted(pair: Row) -> dict[str, Any]:
    """Of each policy that was measured its mean response times, seconds of the scenario; null: nothing was answered."""
    measured = {
        role: {side: figures[side]["response_time"]["mean"] for side in ("real", "simulated")}
        for role, figures in pair.get("measured", {}).items()
    }
    return {"number": pair["number"], "conditions": pair.get("conditions"), "measured": measured}


def _said_of_aborted(aborted: Sequence[Row]) -> str:
    told = [
        f"pair {one['number']}: {role} {_seconds(times['real'])}, simulated {_seconds(times['simulated'])}"
        for one in map(_aborted, aborted)
        for role, times in one["measured"].items()
    ]
    counted = "1 pair was" if len(aborted) == 1 else f"{len(aborted)} pairs were"
    part = f"mean response times until then: {'; '.join(told)}" if told else "nothing was measured"
    return f"{counted} begun and not ended ({part})."


def _seconds(value: float | None) -> str:
    return "nothing answered" if value is None else f"{value:.3f} s"


def _conditions_key(pair: Row) -> str:
    return json.dumps(pair["conditions"], sort_keys=True)


def _condition(pairs: Sequence[Row]) -> dict[str, Any]:
    counted = [pair for pair in pairs if pair["state"] in ("valid", "lost")]
    valid = [pair for pair in pairs if pair["state"] == "valid"]
    questions = {name: Wealth.of(differences) for name, differences in _questions(counted).items()}
    evidence = evidence_after_each(counted)
    found = {
        **pairs[0]["conditions"],
        "comparator": pairs[0]["comparator_label"],
        "pairs": len(valid),
        "lost": len(counted) - len(valid),
        "invalid": len(pairs) - len(counted),
        "evidence": evidence[-1] if evidence else 1.0,
        "highest_evidence": max(evidence, default=1.0),
        "contradicts": stands(evidence),
        "against": {name: wealth.after[-1] for name, wealth in questions.items() if wealth.after},
        "metrics": [_row(metric, valid) for metric in METRICS] if len(valid) > 1 else [],
    }
    return {**found, "sentence": _sentence(found)}


def evidence_after_each(pairs: Sequence[Row]) -> list[float]:
    """Of valid and lost pairs of the same conditions, in their order."""
    wealths = [Wealth.of(differences).after for differences in _questions(pairs).values()]
    return [sum(steps) / len(steps) for steps in zip(*wealths, strict=True)]


def stands(evidence: Sequence[float]) -> bool:
    """Whether a contradiction that was found has not been outweighed since."""
    standing = False
    for value in evidence:
        standing = value >= CONTRADICTED or (standing and value > OUTWEIGHED)
    return standing


def _questions(pairs: Sequence[Row]) -> dict[str, list[float]]:
    """By question, how much each pair speaks for a contradiction.

    *Worse*: than the comparator, where the simulator did not say so itself. *Beyond*: than simulated, by more than the
    tolerance.
    """
    found: dict[str, list[float]] = {}
    for metric in METRICS:
        words = metric.replace("_", " ")
        logs = [(math.log(real), math.log(simulated)) for real, simulated in (_ratios(p, metric) for p in pairs)]
        lost = [pair["state"] == "lost" for pair in pairs]
        worse = [LOST if gone else real - max(0.0, told) for (real, told), gone in zip(logs, lost, strict=True)]
        beyond = [
            LOST if gone else real - told - math.log(1.0 + TOLERANCE)
            for (real, told), gone in zip(logs, lost, strict=True)
        ]
        found |= {f"mean {words}, worse than the comparator": worse, f"mean {words}, worse than simulated": beyond}
    return found


def _ratios(pair: Row, metric: str) -> tuple[float, float]:
    """The winner's mean over the comparator's: real, and simulated. Of a pair that says nothing by itself 1."""
    if pair["state"] != "valid":
        return 1.0, 1.0
    winner, comparator = pair["winner"], pair["comparator"]
    return (
        winner["real"][metric]["mean"] / comparator["real"][metric]["mean"],
        winner["simulated"][metric]["mean"] / comparator["simulated"][metric]["mean"],
    )


def _row(metric: str, valid: Sequence[Row]) -> dict[str, Any]:
    """For people: the interval is that of these pairs, and no part of the rule."""

    def means(policy: str, side: str) -> list[float]:
        return [float(pair[policy][side][metric]["mean"]) for pair in valid]

    real = paired_effect(means("winner", "real"), means("comparator", "real"))
    return {
        **effect_json(real),
        "metric": f"mean {metric.replace('_', ' ')}",
        "winner": sum(means("winner", "real")) / len(valid),
        "comparator": sum(means("comparator", "real")) / len(valid),
        "simulated": math.exp(sum(math.log(_ratios(pair, metric)[1]) for pair in valid) / len(valid)),
    }


def _sentence(found: Mapping[str, Any]) -> str:
    counts = [f"{found['pairs']} valid pairs"]
    counts += [f"{found['lost']} in which the winner lost requests"] if found["lost"] else []
    counts += [f"{found['invalid']} invalid"] if found["invalid"] else []
    told = ""
    if found["metrics"]:
        mean = found["metrics"][-1]
        low, high = mean["t_interval"]
        told = f": mean response time {mean['ratio']:.3f} [{low:.3f}, {high:.3f}] of {found['comparator']}"
        told += f", simulated {mean['simulated']:.3f}"
    return f"{', '.join(counts)} on {found['workers']}{_part(found)}{told}. {_verdict(found)}"


def _part(found: Mapping[str, Any]) -> str:
    parts = [f"speed {found['speed']:g}"] if found["speed"] != 1.0 else []
    parts += [f"the first {found['first_seconds']:g} s"] if found["first_seconds"] is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _verdict(found: Mapping[str, Any]) -> str:
    evidence = f"evidence {found['evidence']:.3g}"
    if found["contradicts"]:
        why = ", ".join(name for name, wealth in found["against"].items() if wealth >= OUTWEIGHED)
        why = why or "it was outweighed in part"
        return (
            f"The replay contradicts the simulator ({why}; {evidence}, {CONTRADICTED:g} contradicts); "
            f"it stands until further pairs bring that to {OUTWEIGHED:g}."
        )
    if found["pairs"] + found["lost"] < LEAST_PAIRS:
        return f"Too few to be judged: {LEAST_PAIRS} are needed."
    return f"The replay does not contradict the simulator ({evidence} of {CONTRADICTED:g})."
