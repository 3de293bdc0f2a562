import hashlib
import json
import random
import tomllib
from pathlib import Path

import pytest

from designer.ledger import Ledger, LedgerError
from designer.promote import ACTIVE_FILE, PromotionError, default_parameters, promote, read_active, rollback, verify
from designer.search import RunOutcome
from gateway.batch_guard import load_batch_policy
from gateway.promoted import promotion_of, summary
from policies.conformance import check_source
from policies.loader import PolicySpec, load_policy
from tests.support.batch_winner import with_batch_winner
from tests.support.finished_run import PROTOCOL
from tests.support.ledger_copy import copied
from tests.support.replay_pairs import pairs, write


def test_the_bytes_evaluated_are_the_bytes_promoted(outcome: RunOutcome, tmp_path: Path) -> None:
    target = tmp_path / "designed.py"
    with Ledger.open(outcome.folder) as ledger:
        version = promote(ledger, target)
        evaluated = ledger.subject(outcome.winner).parts[0].source
    assert target.read_text().endswith(evaluated)
    assert (
        verify(target) == version.evaluated_sha256 == outcome.winner == hashlib.sha256(evaluated.encode()).hexdigest()
    )
    assert check_source(target) == []
    loaded = load_policy(PolicySpec(str(target), expected_hash=version.policy_hash), random.Random(0))
    assert set(loaded.slots) == {"routing", "scheduling"}


def test_provenance_is_in_the_file_and_beside_it(outcome: RunOutcome, tmp_path: Path) -> None:
    target = tmp_path / "designed.py"
    with Ledger.open(outcome.folder) as ledger:
        version = promote(ledger, target)
        looks = [n for n in (1, 2) if ledger.result(f"sealed {n}")]
    head = target.read_text().split('"""')[0]
    for fact in ("run: first (evolve)", "scenario small", "parents:", "verdict: better", "sealed seeds"):
        assert fact in head
    active = tomllib.loads((tmp_path / ACTIVE_FILE).read_text())["active"]
    assert active["policy_hash"] == version.policy_hash
    assert active["ratio"] < 1.0
    assert active["sealed_seeds"] == PROTOCOL.sealed_seeds * len(looks)


def test_a_promoted_file_that_was_edited_is_found_out(outcome: RunOutcome, tmp_path: Path) -> None:
    target = tmp_path / "designed.py"
    with Ledger.open(outcome.folder) as ledger:
        promote(ledger, target)
    target.write_text(target.read_text().replace("return True", "return False"))
    with pytest.raises(PromotionError, match="changed by hand"):
        verify(target)
    target.write_text("x = 1\n")
    with pytest.raises(PromotionError, match="no marker"):
        verify(target)


def test_what_is_told_of_a_run_stays_a_comment(outcome: RunOutcome, tmp_path: Path) -> None:
    name = "'first' || char(10) || 'import os' || char(13) || 'import sys'"
    change = f"UPDATE run SET run = {name}, scenario_name = 'a' || char(12) || 'b'"
    with copied(outcome.folder, tmp_path / "run", change) as ledger:
        promote(ledger, tmp_path / "designed.py")
    head = (tmp_path / "designed.py").read_text().split('"""')[0]
    assert "first import os import sys" in head
    assert all(line.startswith("#") for line in head.splitlines() if line)


def test_a_run_without_a_proof_is_refused_unless_forced(outcome: RunOutcome, tmp_path: Path) -> None:
    change = "UPDATE results SET content = '{\"verdict\": \"undecided\"}' WHERE kind = 'verdict'"
    with copied(outcome.folder, tmp_path / "run", change) as ledger:
        with pytest.raises(PromotionError, match="'undecided', not 'better'; see --force"):
            promote(ledger, tmp_path / "designed.py")
        assert not (tmp_path / "designed.py").exists()
        assert promote(ledger, tmp_path / "designed.py", force=True).forced
    assert "(forced)" in (tmp_path / "designed.py").read_text()


def test_batch_rules_are_the_workers_to_run_and_that_is_said(outcome: RunOutcome, tmp_path: Path) -> None:
    """Alone they were all that was sealed. Beside others, these go live without having been tried so."""
    with with_batch_winner(outcome, tmp_path / "alone", "batch") as ledger:
        version = promote(ledger, tmp_path / "alone.py")
        write(ledger, pairs([0.8], 0.8))
        with pytest.raises(PromotionError, match="its 1 replay pairs were made without its batch rules"):
            promote(ledger, tmp_path / "alone.py")
    assert not version.forced
    assert load_batch_policy(str(tmp_path / "alone.py")).slots == ("batch",)
    with with_batch_winner(outcome, tmp_path / "joint", "routing", "batch") as ledger:
        with pytest.raises(PromotionError, match="routing and scheduling rules were never rehearsed with its batch"):
            promote(ledger, tmp_path / "joint.py")
        version = promote(ledger, tmp_path / "joint.py", force=True)
    assert version.forced
    option = json.dumps({"ranvier_batch_policy": str(tmp_path / "joint.py")})
    flags = f"--scheduler-cls gateway.vllm_scheduler.PolicyScheduler --additional-config '{option}'"
    assert version.vllm_flags == flags
    text = (tmp_path / "joint.py").read_text()
    assert f"# batch rules: vllm serve MODEL {flags}\n" in text
    promotion = promotion_of(text, "joint.py")
    assert promotion is not None
    assert promotion.evidence["batch"]["in_force"] == {"sealed": True, "replay": False, "swap_in": False}
    assert any(
        line.startswith("batch: Its batch rules are the workers' to run") for line in summary(promotion.describe())
    )


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM results WHERE kind = 'verdict'", "has not ended"),
        ("DELETE FROM frozen", "found nothing better"),
    ],
)
def test_a_run_without_a_winner_has_nothing_to_promote(
    outcome: RunOutcome, tmp_path: Path, statement: str, message: str
) -> None:
    with copied(outcome.folder, tmp_path / "run", statement) as ledger, pytest.raises(PromotionError, match=message):
        promote(ledger, tmp_path / "designed.py", force=True)


def test_other_bytes_than_those_evaluated_are_refused(outcome: RunOutcome, tmp_path: Path) -> None:
    altered = "UPDATE subjects SET parts = replace(parts, 'return True', 'return  True')"
    with copied(outcome.folder, tmp_path / "altered", altered) as ledger, pytest.raises(LedgerError, match="altered"):
        promote(ledger, tmp_path / "designed.py", force=True)
    forged = "UPDATE evaluations SET policy_hashes = '[\"forged\"]'"
    with copied(outcome.folder, tmp_path / "forged", forged) as ledger, pytest.raises(PromotionError, match="identity"):
        promote(ledger, tmp_path / "designed.py", force=True)


def test_rollback_puts_the_version_before_back(outcome: RunOutcome, tmp_path: Path) -> None:
    target = tmp_path / "designed.py"
    with Ledger.open(outcome.folder) as ledger:
        first = promote(ledger, target)
        bytes_of_first = target.read_bytes()
        second = promote(ledger, target, force=True)
    target.write_text("# somebody broke it\n")
    assert read_active(tmp_path).previous == [first]
    assert rollback(target) == first
    assert target.read_bytes() == bytes_of_first
    assert read_active(tmp_path).active == first != second or first == second
    with pytest.raises(PromotionError, match="no promoted version before"):
        rollback(target)


def test_rollback_of_something_never_promoted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromotionError, match="knows of no promotion"):
        rollback(tmp_path / "mine.py")
    (tmp_path / ACTIVE_FILE).write_text("[active]\nfile = 3\n")
    with pytest.raises(PromotionError, match="cannot be understood"):
        rollback(tmp_path / "mine.py")


def test_default_parameters_are_read_without_running_the_module() -> None:
    source = "raise SystemExit\ndef create(rng, *, a: float = 2, b: int = 3, c: bool = True, d: str = 'x'): ...\n"
    assert default_parameters(source) == {"a": 2.0, "b": 3, "c": True, "d": "x"}
    assert type(default_parameters(source)["a"]) is float
    assert default_parameters("x = 1\n") == {}
