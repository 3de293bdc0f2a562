"""A layer is named by what the sandbox says; what none of them says is nobody's, and so counts as not caught."""

from __future__ import annotations

import pytest

from designer.layers import UNNAMED, layer_of

WRONG = "5 of its answers were wrong and had to be replaced, the latest: routing: "
SAID = [
    ("ran past its deadline of 30 s and was killed", "deadline"),
    ("used up its processor time", "rlimits"),
    ("ran out of memory", "rlimits"),
    (f"{WRONG}exception: MemoryError:", "rlimits"),
    (f"{WRONG}exception: LockstepError: MemoryError: ", "rlimits"),
    (f"{WRONG}exception: PermissionError: [Errno 1] Operation not permitted", "kernel fence"),
    (f"{WRONG}exception: LockstepError: RuntimeError: can't start new thread", "kernel fence"),
    (f"{WRONG}exception: KeyError: 'PATH'", "empty environment"),
    (f"{WRONG}exception: ValueError: the PermissionError that it writes about", "guard"),
    (f"{WRONG}wrong_answer: route answered a int, none of its candidates", "guard"),
    ("InvariantViolation: r3 was dispatched twice", "invariants"),
    ("gave a result of another form: KeyError('score')", "result check"),
    ("was killed by SIGSEGV", "result check"),
    ("the sandbox process was lost and is replaced: the other side has gone", "replacement"),
    ("PolicyLoadError: x.py:1: does not parse", "loader"),
]


@pytest.mark.parametrize(("reason", "layer"), SAID, ids=[f"{layer}-{n}" for n, (_, layer) in enumerate(SAID)])
def test_a_layer_is_known_by_its_words(reason: str, layer: str) -> None:
    assert layer_of(reason) == layer


@pytest.mark.parametrize("reason", ["", "ValueError: no", "a sandbox process", "memory", "an exception"])
def test_anything_else_is_nobodys(reason: str) -> None:
    assert layer_of(reason) == UNNAMED
