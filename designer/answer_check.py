"""What a child of the sandbox says is checked before it counts: it may be the candidate that says it.

Only what an evaluation is made of comes through, of the right kind and of a bounded size, and text that can be stored
and shown: no control characters, nothing that is not UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_SUMMARY = 1 << 16
_MAX_TEXT = 1000
_MAX_LINES = 1000


class BadAnswerError(Exception):
    """What came is no evaluation's result, or one that does not count; one line."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of a simulation."""

    score: float
    summary: Mapping[str, Any]
    decisions: str
    """SHA-256 (hex)."""
    policy_hashes: tuple[str, ...]


def scored(result: object) -> Scored:
    """A simulation's result.

    Raises:
        BadAnswerError: it is none, or answers of the policy had to be replaced.
    """
    try:
        found = _scored(result)
        failures = _count(found.summary["num_policy_failures"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadAnswerError(one_line(f"gave a result of another form: {error!r}")) from None
    if not 0.0 < found.score < float("inf"):
        raise BadAnswerError(f"scored {found.score}, which is no time")
    if failures:
        latest = one_line(found.summary.get("policy_failure", ""), 300)
        raise BadAnswerError(f"{failures} of its answers were wrong and had to be replaced, the latest: {latest}")
    return found


def _scored(result: Any) -> Scored:
    score, summary = result["score"], result["summary"]
    if type(score) not in (int, float):
        raise TypeError("the score is no number")
    if not isinstance(summary, dict) or len(json.dumps(summary)) > _MAX_SUMMARY:
        raise TypeError(f"the summary is no object of at most {_MAX_SUMMARY} characters")
    hashes = tuple([_digest(identity["policy_hash"]) for identity in result["identities"]])
    return Scored(float(score), summary, _digest(result["decisions"]), hashes)


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a digest is not 64 hexadecimal digits")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a count is no whole number")
    return value


def violations(answer: Mapping[str, Any]) -> list[str]:
    """Of the contract, as a child found them; what is no list of texts is a violation itself."""
    if "result" not in answer:
        return [one_line(answer.get("error", ""))]
    found = answer["result"]
    if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
        return ["gave a result of another form"]
    return [one_line(line) for line in found[:_MAX_LINES]]


def one_line(text: object, most: int = _MAX_TEXT) -> str:
    """As one line of at most so many characters, all of them printable: it goes to a database and to terminals."""
    words = " ".join(str(text)[: 4 * most].split())[:most]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
