"""Which layer it was that stopped a candidate, by what the sandbox says of it: a text that none says is nobody's."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNNAMED = "no named layer"
"""Something stopped it, and nobody knows what: as bad as nothing."""
_FENCED = r"PermissionError\b|Operation not permitted|can't start new thread|not allowed to raise"
_MISSING = r"FileNotFoundError\b|No such file|loader for .* cannot handle|ModuleNotFoundError\b|ImportError\b"
_WRONG = r"^\d+ of its answers were wrong and had to be replaced, the latest: "
_LAYERS: tuple[tuple[str, str], ...] = (
    (r"^ran past its deadline of .* and was killed$", "deadline"),
    (r"^used up its processor time$", "rlimits"),
    (r"^ran out of memory$", "rlimits"),
    (rf"{_WRONG}\w+: exception: (\w+: )*MemoryError\b", "rlimits"),
    (r"^InvariantViolation: ", "invariants"),
    (rf"{_WRONG}\w+: exception: (\w+: )*({_FENCED})", "kernel fence"),
    (rf"{_WRONG}\w+: exception: (\w+: )*({_MISSING})", "kernel fence"),
    (rf"^(\w+: .*: )?({_FENCED}|{_MISSING})", "kernel fence"),
    (rf"{_WRONG}\w+: exception: (\w+: )*KeyError: 'PATH'", "empty environment"),
    (rf"{_WRONG}\w+: (exception|wrong_answer): ", "guard"),
    (r"^gave a result of another form", "result check"),
    (r"^ended without a result$", "result check"),
    (r"^was killed by SIG[A-Z]+$", "result check"),
    (r"^scored .*, which is no time$", "result check"),
    (r"^PolicyLoadError: ", "loader"),
    (r"^the sandbox process was lost", "replacement"),
    (r"^(decided otherwise in a process of its own|scored .* in a process of its own)", "two processes"),
    (r"^LockstepError: ", "two processes"),
    (r"^decided otherwise before second ", "altered future"),
)


@dataclass(frozen=True, slots=True)
class Catch:
    """What became of a planted candidate on one way."""

    layer: str
    """``nothing`` if none objected."""
    detail: str
    seconds: float
    """From the start to the objection, wall clock."""


def layer_of(reason: str) -> str:
    """The layer that says so; ``no named layer`` when none does."""
    return next((layer for said, layer in _LAYERS if re.search(said, reason)), UNNAMED)
