"""What a promoted policy carries, gate by gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from designer.ledger import Ledger
from designer.promotion_evidence import FORMAT, GATES, evidence_of
from designer.replay_evidence import LEAST_PAIRS
from designer.search import RunOutcome
from designer.swap_in import NOT_SWAPPED, RESULT
from tests.support.ledger_copy import copied
from tests.support.replay_pairs import aborted, pairs, write

CERTIFICATE = {
    "seeds": 4,
    "cells": [{"won": True}, {"won": False}],
    "worst": {"regime": "KV x0.8, load x1.15", "ratio": 1.02, "label": "least_loaded"},
    "won_in": {"arrival_rate": [1.0, 2.0]},
    "failed": [],
}


def test_every_gate_has_a_place_and_those_of_production_are_empty(outcome: RunOutcome, tmp_path: Path) -> None:
    changes = (
        "DELETE FROM results WHERE kind = 'certificate'",
        f"INSERT INTO results VALUES ('certificate', '{json.dumps(CERTIFICATE)}', 0.0)",
    )
    with copied(outcome.folder, tmp_path / "run", *changes) as ledger:
        write(ledger, pairs([0.8, 0.82, 0.81, 0.8, 0.79], 0.8))
        told = evidence_of(ledger, forced=False)
    assert json.loads(json.dumps(told)) == told
    assert told["format"] == FORMAT
    assert tuple(told["gates"]) == GATES
    gates = told["gates"]
    assert gates["shadow"] is gates["canary"] is None
    assert all(gates[name]["passed"] and gates[name]["sentence"] for name in ("sealed", "regimes", "replay", "swap_in"))
    assert gates["regimes"]["won_in"] == {"arrival_rate": [1.0, 2.0]}
    assert gates["regimes"]["sentence"] == "won 1 of 2; worst in KV x0.8, load x1.15: 1.020 of least_loaded"
    assert gates["sealed"]["num_seeds"] >= 10
    assert gates["replay"]["conditions"][0]["pairs"] == 5


def test_a_gate_that_was_not_passed_through_is_null(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        told = evidence_of(ledger, forced=True)
    assert told["forced"]
    assert told["gates"]["replay"] is None


@pytest.mark.parametrize(
    "made", [pairs([0.8] * (LEAST_PAIRS - 1), 0.8), [aborted(1)], pairs([1.0] * 6, 0.8, state="invalid")]
)
def test_replays_that_were_not_judged_have_passed_nothing(
    outcome: RunOutcome, tmp_path: Path, made: list[dict[str, Any]]
) -> None:
    with copied(outcome.folder, tmp_path / "run") as ledger:
        write(ledger, made)
        gate = evidence_of(ledger, forced=False)["gates"]["replay"]
    assert gate["passed"] is False
    assert gate["sentence"]


def test_a_swap_that_was_not_rehearsed_is_null(outcome: RunOutcome, tmp_path: Path) -> None:
    changes = (
        f"DELETE FROM results WHERE kind = '{RESULT}'",
        f"INSERT INTO results VALUES ('{RESULT}', '{json.dumps(NOT_SWAPPED).replace(chr(39), chr(39) * 2)}', 0.0)",
    )
    with copied(outcome.folder, tmp_path / "run", *changes) as ledger:
        assert evidence_of(ledger, forced=False)["gates"]["swap_in"] is None
