"""A sealed test that compared nothing is no verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from designer.ledger import Ledger
from designer.promote import PromotionError, promote
from designer.replay import ReplayError, replay
from designer.sealed_state import SealedState
from designer.search import RunOutcome, new_ledger
from tests.support.finished_run import SETTINGS
from tests.support.ledger_copy import copied
from tests.support.small_scenario import small_scenario


def test_a_winner_is_better(outcome: RunOutcome) -> None:
    with Ledger.open(outcome.folder) as ledger:
        state = SealedState.of(ledger)
    assert state.is_better
    assert state.digest == outcome.winner
    assert state.look["ratio"] < 1.0


@pytest.mark.parametrize("verdict", ["worse", "better"])
def test_a_failure_on_the_sealed_seeds_is_a_failure_whatever_was_written(
    outcome: RunOutcome, tmp_path: Path, verdict: str
) -> None:
    look = json.dumps({"look": 1, "verdict": verdict, "error": "the comparator ran past its deadline"})
    changes = (
        "DELETE FROM results WHERE kind LIKE 'sealed %'",
        f"INSERT INTO results VALUES ('sealed 1', '{look}', 0.0)",
        f"UPDATE results SET content = '{{\"verdict\": \"{verdict}\"}}' WHERE kind = 'verdict'",
    )
    with copied(outcome.folder, tmp_path / "run", *changes) as ledger:
        state = SealedState.of(ledger)
        assert state.verdict == "failed"
        assert not state.is_better
        with pytest.raises(ReplayError, match="compared nothing, as a policy failed: the comparator ran past"):
            replay(ledger, pairs=1)
        with pytest.raises(PromotionError, match="compared nothing"):
            promote(ledger, tmp_path / "designed.py")
        version = promote(ledger, tmp_path / "designed.py", force=True)
    assert (version.verdict, version.ratio, version.forced) == ("failed", 0.0, True)


def test_a_run_that_goes_on_has_none(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        state = SealedState.of(ledger)
    assert (state.digest, state.verdict, state.said) == (None, "", "the run has not ended")
