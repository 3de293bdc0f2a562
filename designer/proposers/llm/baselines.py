"""The hand-made policies that a run's winner must beat, as an author is told of them: name, idea, score."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from designer.ledger import Ledger
from designer.proposers.llm.objective import name_of, unit_of
from designer.proposers.protocol import log_ratio
from designer.simulator.scenario import Objective
from designer.subject import Part, Subject, subject_of_specs
from policies.syntax import parse

_PUBLISHED = "joint/"
"""Designs whose names and ideas an author is not given: it is to find its own."""


@dataclass(frozen=True, slots=True)
class Baselines:
    """What each scored on the train seeds; the first is what all scores are ratios to."""

    scores: Mapping[str, Mapping[int, float]]
    """By the text that names the policy set, then by seed."""

    def reference(self, objective: Objective) -> str:
        """Its name and the range of its scores."""
        name, scores = next(iter(self.scores.items()))
        low, high = min(scores.values()), max(scores.values())
        figures = f"its {name_of(objective)} on the train seeds: {low:.3g} to {high:.3g}{unit_of(objective)}"
        return f"{name} ({figures})"

    def text(self) -> str:
        """A line each; then what the rules are, each once."""
        reference = next(iter(self.scores.values()))
        lines, words = [], dict[str, str]()
        for name, scores in self.scores.items():
            lines.append(f"- {_shown(name)}: {math.exp(log_ratio(scores, reference)):.3f} times the reference")
            words |= {
                part.name.rpartition("/")[2]: text for part in subject_of_specs(name).parts if (text := _words(part))
            }
        return "\n".join([*lines, "", *(f"{name}: {text}." for name, text in words.items())]).strip()


def read_baselines(ledger: Ledger, names: Sequence[str], reference: Mapping[int, float]) -> Baselines:
    """Those of a run that could be simulated.

    Args:
        reference: what the first of the names scored, by train seed.
    """
    found: dict[str, Mapping[int, float]] = {names[0]: reference}
    for name in names[1:]:
        if scores := _scores(ledger, subject_of_specs(name), reference):
            found[name] = scores
    return Baselines(found)


def _scores(ledger: Ledger, subject: Subject, seeds: Mapping[int, float]) -> dict[int, float]:
    """Empty: it failed on one, or was never tried."""
    records = [ledger.evaluation(subject.digest, "train", seed, "together") for seed in seeds]
    scores = {record.seed: record.score for record in records if record is not None and record.score is not None}
    return scores if len(scores) == len(seeds) else {}


def _shown(name: str) -> str:
    parts = name.split("+")
    return "+".join("a published design" if part.startswith(_PUBLISHED) else part.rpartition("/")[2] for part in parts)


def _words(part: Part) -> str:
    """The first line of a built-in's docstring; what is in a file of the user's is not passed on."""
    if not part.trusted or part.name.startswith(_PUBLISHED):
        return ""
    text = ast.get_docstring(parse(part.source)) or ""
    return text.split("\n\n")[0].replace("\n", " ").rstrip(".")
