"""What a finalist must show, and that it is asked once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from designer.evaluations import Evaluator
from designer.finalists import verified
from designer.ledger import Ledger
from designer.proposers.protocol import Outcome, Proposal
from designer.sandbox import Sandbox
from designer.search import new_ledger
from designer.subject import Subject, subject_of_source
from tests.support.finished_run import SETTINGS
from tests.support.leaking_simulation import KNOWS_LENGTHS, LeakingSandbox
from tests.support.small_scenario import small_scenario


def _with_finalist(folder: Path, source: str) -> tuple[Ledger, Outcome, dict[str, Any]]:
    ledger = new_ledger(folder, small_scenario(80), dataclasses.replace(SETTINGS, budget=1), secret="not so secret")
    outcome = Outcome(Proposal(source, "by a bound.", None), "scored", {1: 1.0})
    ledger.add_subject(subject_of_source(source, "finalist"))
    return ledger, outcome, {"scenario": small_scenario(80), "jobs": 1}


def test_a_finalist_that_decides_by_the_future_is_out(tmp_path: Path) -> None:
    for name, kind, expected in (("leaks", LeakingSandbox, 0), ("honest", Sandbox, 1)):
        ledger, outcome, made = _with_finalist(tmp_path / name, KNOWS_LENGTHS)
        with ledger, kind(**made) as sandbox:
            evaluator = Evaluator(ledger, sandbox, "cafe")
            assert len(verified([outcome], ledger, sandbox, evaluator)) == expected
            ((_, event),) = ledger.events("finalist")
            assert ("decided otherwise before second" in event["problem"]) == (kind is LeakingSandbox)


class _ObjectsNow(Sandbox):
    def check(self, subject: Subject, *, static: bool = True) -> list[str]:
        return ["keeps its arguments, this time"]


def test_what_was_found_of_a_finalist_is_not_asked_again(tmp_path: Path) -> None:
    """A contract trial that would end otherwise on the second day does not change a run that goes on."""
    ledger, outcome, made = _with_finalist(tmp_path / "run", KNOWS_LENGTHS)
    with ledger:
        for kind in (Sandbox, _ObjectsNow):
            with kind(**made) as sandbox:
                (kept,) = verified([outcome], ledger, sandbox, Evaluator(ledger, sandbox, "cafe"))
                assert kept.digest == outcome.proposal.candidate_hash
        assert len(list(ledger.events("finalist"))) == 1
