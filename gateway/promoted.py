"""Policies that the designer promoted, as a gateway meets them: the bytes that were evaluated, or nothing runs.

A promoted file is comments, a marker line with the SHA-256 of everything below it, and below it the evaluated bytes.
One of the comments is the evidence, as JSON: what the policy went through before it came here. The hash guards against
a file that was edited, cut short or mixed up, not against somebody who writes a new hash: for that a gateway is told
the hash of the whole file when it is asked to load it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from gateway.errors import PolicyRefusedError

MARKER = "# ranvier: evaluated bytes follow, sha256 "
EVIDENCE = "# ranvier: evidence "
_MAX_EVIDENCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promoted file says of itself."""

    evaluated_sha256: str
    evidence: dict[str, Any]
    """By gate; empty: the file has none that can be read."""

    def describe(self) -> dict[str, Any]:
        return {**self.evidence, "evaluated_sha256": self.evaluated_sha256}


def promotion_of(source: str, path: str) -> Promotion | None:
    """None for a policy that was not promoted.

    Raises:
        PolicyRefusedError: the code below the marker is not what was evaluated.
    """
    head, found, rest = source.partition(MARKER)
    if not found or any(line and not line.startswith("#") for line in _lines(head)):
        return None
    stated, newline, body = rest.partition("\n")
    if not newline or hashlib.sha256(body.encode()).hexdigest() != stated:
        raise PolicyRefusedError(
            f"{path}: the code below the marker is not what was evaluated; it was changed by hand: promote it again, "
            "or take the marker out to run it as code of your own"
        )
    lines = [line.removeprefix(EVIDENCE) for line in _lines(head) if line.startswith(EVIDENCE)]
    return Promotion(stated, _evidence(lines[-1]) if lines else {})


def require_bytes(data: bytes, expected_sha256: str | None, path: str) -> None:
    """Before anything of it runs.

    Raises:
        PolicyRefusedError: they are others.
    """
    found = hashlib.sha256(data).hexdigest()
    if expected_sha256 not in (None, found):
        raise PolicyRefusedError(f"{path}: its bytes have the SHA-256 {found}, not the expected {expected_sha256}")


def _lines(head: str) -> list[str]:
    """Those of Python: ``str.splitlines`` knows more ends, at which a comment goes on."""
    return head.replace("\r", "\n").split("\n")


def _evidence(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if len(text) <= _MAX_EVIDENCE else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def summary(promotion: dict[str, Any]) -> list[str]:
    """For people: what ``Promotion.describe`` gave, a line for each gate."""
    gates = promotion.get("gates")
    lines = [f"promoted from run {promotion.get('run', '?')}, evaluated {promotion['evaluated_sha256'][:12]}"]
    if not isinstance(gates, dict):
        return [*lines, "its evidence cannot be read"]
    for name, gate in gates.items():
        said = gate.get("sentence", "") if isinstance(gate, dict) else ""
        lines.append(f"{name}: {said or 'not passed through'}")
    batch = promotion.get("batch")
    lines += [f"batch: {batch.get('sentence', '')}"] if isinstance(batch, dict) else []
    return [*lines, *(["promoted by force"] if promotion.get("forced") else [])]
