"""A promoted file as a gateway meets it: any byte below the marker counts."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateway.errors import PolicyRefusedError
from gateway.promoted import EVIDENCE, MARKER, promotion_of, require_bytes, summary

BODY = '"""A policy."""\n\n\ndef create(rng):\n    return None\n'
GATES = {"sealed": {"passed": True, "sentence": "better: 0.5"}, "canary": None}


def promoted(body: str = BODY, evidence: str = json.dumps({"run": "first", "forced": True, "gates": GATES})) -> str:
    return f"# Promoted.\n{EVIDENCE}{evidence}\n{MARKER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def test_it_says_what_it_carries() -> None:
    told = promotion_of(promoted(), "p.py")
    assert told is not None
    assert told.evaluated_sha256 == hashlib.sha256(BODY.encode()).hexdigest()
    assert told.describe()["gates"]["sealed"]["sentence"] == "better: 0.5"
    assert summary(told.describe()) == [
        f"promoted from run first, evaluated {told.evaluated_sha256[:12]}",
        "sealed: better: 0.5",
        "canary: not passed through",
        "promoted by force",
    ]


def test_one_byte_makes_it_another_policy() -> None:
    text = promoted()
    start = text.index(BODY)
    for place in range(start, len(text), 7):
        other = "x" if text[place] != "x" else "y"
        with pytest.raises(PolicyRefusedError, match="not what was evaluated"):
            promotion_of(text[:place] + other + text[place + 1 :], "p.py")
    for cut in (text[:-1], text + "\n", text[: start - 3]):
        with pytest.raises(PolicyRefusedError):
            promotion_of(cut, "p.py")


def test_other_policies_are_none() -> None:
    assert promotion_of(BODY, "p.py") is None
    assert promotion_of(f'x = "{MARKER}"\n', "p.py") is None
    assert promotion_of(f"x = 1\n{MARKER}0\n", "p.py") is None


@pytest.mark.parametrize("evidence", ["not json", "[1]", "[" * 100_000])
def test_evidence_that_cannot_be_read_is_none_and_the_code_still_counts(evidence: str) -> None:
    told = promotion_of(promoted(evidence=evidence), "p.py")
    assert told is not None
    assert told.evidence == {}
    assert "its evidence cannot be read" in summary(told.describe())


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_what_ends_no_line_of_python_hides_no_marker(end: str) -> None:
    text = f"# run{end}of mine\n{promoted()}"
    assert promotion_of(text, "p.py") is not None
    with pytest.raises(PolicyRefusedError, match="not what was evaluated"):
        promotion_of(text + "# more\n", "p.py")
    assert promotion_of(f"# run\rx = 1\n{promoted()}", "p.py") is None


def test_evidence_does_not_say_what_the_bytes_say() -> None:
    told = promotion_of(promoted(evidence='{"evaluated_sha256": 3}'), "p.py")
    assert told is not None
    assert told.describe()["evaluated_sha256"] == hashlib.sha256(BODY.encode()).hexdigest()


def test_expected_bytes() -> None:
    require_bytes(b"x", None, "p.py")
    require_bytes(b"x", hashlib.sha256(b"x").hexdigest(), "p.py")
    with pytest.raises(PolicyRefusedError, match=r"p.py: its bytes have the SHA-256 [0-9a-f]{64}, not the expected 00"):
        require_bytes(b"x", "00", "p.py")
