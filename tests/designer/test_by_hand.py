"""A policy from outside: measured as any other, kept with what was expected of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.by_hand import propose_by_hand
from designer.ledger import Ledger
from designer.search import Settings, new_ledger
from policies.loader import PolicyLoadError
from tests.designer.proposers.llm.test_proposer import SETTINGS
from tests.support.scripted_models import GOOD, IMPORTS_OS, READS_FUTURE
from tests.support.small_scenario import small_scenario

BY_HAND = Settings(baselines=SETTINGS.baselines, references=(), protocol=SETTINGS.protocol)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with new_ledger(tmp_path / "run", small_scenario(60), BY_HAND, secret="s"):
        return tmp_path / "run"


def write(run: Path, source: str) -> Path:
    path = run / "mine.py"
    path.write_text(source)
    return path


def test_the_outcome_stands_beside_the_prediction_and_in_the_ledger(run: Path) -> None:
    first = propose_by_hand(run, write(run, GOOD), "short first", 0.9, jobs=1)
    assert first.observed is not None
    assert (first.number, first.predicted, first.reference) == (0, 0.9, "least_loaded+fcfs")
    assert len(first.ratios) == 2
    assert propose_by_hand(run, write(run, GOOD), "short first", 0.9, jobs=1) == first
    again = propose_by_hand(run, write(run, GOOD), "less work in flight", None, jobs=1)
    assert (again.number, again.predicted, again.observed) == (1, None, first.observed)
    with Ledger.open(run) as ledger:
        record, _ = ledger.candidates("hand")
        assert (record.proposal.source, record.proposal.hypothesis) == (GOOD, "short first")
        assert len(list(ledger.evaluations("train"))) == 4


@pytest.mark.parametrize(
    ("source", "reason"),
    [(IMPORTS_OS, "breaks the contract: line 3: import"), (READS_FUTURE, "answers were wrong")],
)
def test_what_cheats_or_fails_says_why_and_is_kept(run: Path, source: str, reason: str) -> None:
    outcome = propose_by_hand(run, write(run, source), "h", None, jobs=1)
    assert outcome.observed is None
    assert reason in outcome.reason
    assert outcome.to_json()["status"] == "failed"
    with Ledger.open(run) as ledger:
        assert next(e.status for e in ledger.evaluations("train") if e.digest == outcome.candidate_hash) == "failed"


@pytest.mark.parametrize(("predicted", "message"), [(-1.0, "--predict -1.0"), (float("inf"), "--predict inf")])
def test_a_prediction_is_a_ratio(run: Path, predicted: float, message: str) -> None:
    with pytest.raises(PolicyLoadError, match=message):
        propose_by_hand(run, write(run, GOOD), "h", predicted)


def test_a_file_that_cannot_be_read(run: Path) -> None:
    with pytest.raises(PolicyLoadError, match=r"nowhere.py: No such file"):
        propose_by_hand(run, run / "nowhere.py", "h", None)


def test_a_device_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyLoadError, match=r"/dev/zero: Not a regular file; name a readable .py file"):
        propose_by_hand(tmp_path, Path("/dev/zero"), "", None)
