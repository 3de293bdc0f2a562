import sqlite3
from pathlib import Path

import pytest

from designer.ledger import (
    LEDGER_FILE,
    CandidateRecord,
    FrozenRecord,
    Ledger,
    LedgerError,
    RunRecord,
    seed_of,
)
from designer.proposers.protocol import Proposal
from designer.sandbox import Evaluation, Task
from designer.subject import subject_of_source, subject_of_specs

RECORD = RunRecord("run", 1.0, "small", "{}", "cafe", {"budget": 3}, "secret")
SUBJECT = subject_of_source("x = 1\n", "candidate")
OTHER = subject_of_specs("least_loaded+fcfs")


def make(folder: Path) -> Ledger:
    ledger = Ledger.create(folder, RECORD)
    ledger.add_subject(SUBJECT)
    ledger.add_subject(OTHER)
    return ledger


def scored(seed: int = 7, score: float = 2.5) -> Evaluation:
    summary = {"num_policy_failures": 0, "p99": None}
    return Evaluation(Task(SUBJECT, seed), "scored", score, summary, "digest", ("hash",), wall_seconds=0.5)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    with make(tmp_path / "run") as ledger:
        proposal = Proposal(SUBJECT.parts[0].source, "because.", 0.9, ("aa",), "adds a limit", {"limits": []})
        ledger.add_candidate(CandidateRecord("search", 0, proposal, "evolve", 2))
        ledger.add_evaluation("train", "cafe", scored())
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.run() == RECORD
        assert ledger.subject(SUBJECT.digest) == SUBJECT
        assert ledger.subject(OTHER.digest) == OTHER
        (candidate,) = ledger.candidates("search")
        assert (candidate.proposal, candidate.proposer, candidate.generation) == (proposal, "evolve", 2)
        found = ledger.evaluation(SUBJECT.digest, "train", 7, "together")
        assert found is not None
        assert (found.score, found.status, found.policy_hashes, found.simulations) == (2.5, "scored", ("hash",), 1)
        assert ledger.evaluation(SUBJECT.digest, "train", 7, "lockstep") is None
        assert [e.seed for e in ledger.evaluations("train")] == [7]
        assert list(ledger.evaluations("sealed")) == []


@pytest.mark.parametrize("table", ["run", "subjects", "candidates", "evaluations", "frozen", "results", "events"])
def test_nothing_can_be_changed_or_deleted(tmp_path: Path, table: str) -> None:
    with make(tmp_path) as ledger:
        proposal = Proposal(SUBJECT.parts[0].source, "because.", None)
        ledger.add_candidate(CandidateRecord("search", 0, proposal, "evolve", 0))
        ledger.add_evaluation("train", "cafe", scored())
        ledger.freeze(FrozenRecord(SUBJECT.digest, OTHER.digest, "mean", 0.02, 0.01, 64, 2))
        ledger.add_result("verdict", {"verdict": "better"})
        ledger.add_event("started", {})
    db = sqlite3.connect(tmp_path / LEDGER_FILE)
    column = db.execute(f"SELECT name FROM pragma_table_info('{table}') LIMIT 1").fetchone()[0]
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


def test_altered_bytes_are_found_out(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        path = ledger.path
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER subjects_UPDATE")
    db.execute("UPDATE subjects SET parts = replace(parts, 'x = 1', 'x = 2')")
    db.commit()
    db.close()
    with Ledger.open(tmp_path) as ledger, pytest.raises(LedgerError, match="altered"):
        ledger.subject(SUBJECT.digest)


def test_an_evaluation_is_written_once(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        ledger.add_evaluation("train", "cafe", scored())
        with pytest.raises(LedgerError, match="twice"):
            ledger.add_evaluation("train", "cafe", scored(score=9.0))


def test_a_run_freezes_one_test(tmp_path: Path) -> None:
    frozen = FrozenRecord(SUBJECT.digest, OTHER.digest, "mean", 0.02, 0.01, 64, 2)
    with make(tmp_path) as ledger:
        assert ledger.frozen() is None
        ledger.freeze(frozen)
        ledger.freeze(frozen)
        assert ledger.frozen() == frozen
        with pytest.raises(LedgerError, match="one sealed test"):
            ledger.freeze(FrozenRecord(OTHER.digest, SUBJECT.digest, "mean", 0.02, 0.01, 64, 2))


def test_a_candidate_number_is_never_used_twice(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        first = CandidateRecord("search", 0, Proposal(SUBJECT.parts[0].source, "h.", None), "evolve", 0)
        ledger.add_candidate(first)
        ledger.add_candidate(first)
        other = subject_of_source("y = 1\n", "other")
        ledger.add_subject(other)
        with pytest.raises(LedgerError, match="differs"):
            ledger.add_candidate(CandidateRecord("search", 0, Proposal("y = 1\n", "h.", None), "evolve", 0))
        assert len(list(ledger.candidates())) == 1


def test_a_result_is_said_once(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        ledger.add_result("verdict", {"verdict": "better", "pair": (1, 2)})
        ledger.add_result("verdict", {"verdict": "better", "pair": [1, 2]})
        with pytest.raises(LedgerError, match="another"):
            ledger.add_result("verdict", {"verdict": "worse"})


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    make(tmp_path / "run").__exit__(None, None, None)
    with pytest.raises(LedgerError, match="a run already"):
        Ledger.create(tmp_path / "run", RECORD)
    with pytest.raises(LedgerError, match="no run there"):
        Ledger.open(tmp_path / "nothing")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / LEDGER_FILE).write_text("not a database at all, but long enough to look at " * 20)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.open(tmp_path / "junk")
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be written"):
        Ledger.create(tmp_path / "file" / "run", RECORD)


def test_seeds_of_splits_are_keyed_and_distinct() -> None:
    sealed = [seed_of("secret", "sealed", n, "hash") for n in range(64)]
    others = [seed_of("secret", "validation", n) for n in range(64)]
    assert len({*sealed, *others}) == 128
    assert sealed == [seed_of("secret", "sealed", n, "hash") for n in range(64)]
    assert seed_of("secret", "sealed", 0, "other hash") not in sealed
    assert seed_of("other secret", "sealed", 0, "hash") not in sealed
    assert all(0 <= seed < 2**48 for seed in sealed)


def test_a_second_writer_is_told_so(tmp_path: Path) -> None:
    with make(tmp_path) as ledger:
        other = sqlite3.connect(ledger.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ledger._db.execute("PRAGMA busy_timeout = 20")
        with pytest.raises(LedgerError, match="another process"):
            ledger.add_event("started", {})
        other.execute("ROLLBACK")
        other.close()
        ledger.add_event("started", {})
        assert len(list(ledger.events("started"))) == 1
