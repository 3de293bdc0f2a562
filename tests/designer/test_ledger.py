import sqlite3
import subprocess
import sys
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
    with pytest.raises(LedgerError, match=r"cannot be written: [\w ]+; choose another --out"):
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


def test_a_ledger_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """One that a later version wrote: it is not read as if it were ours, and not changed."""
    with make(tmp_path) as ledger:
        path = ledger.path
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TRIGGER run_UPDATE")
    db.execute("UPDATE run SET schema = 99")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"of schema \[99\], not \d+; use the version that wrote it"):
        Ledger.open(tmp_path)
    assert path.read_bytes() == before


def test_a_full_disk_is_said_and_what_was_written_is_kept(tmp_path: Path) -> None:
    """The size of files is limited from within: what SQLite is told is what it is told by a full disk."""
    program = """
import resource, signal, sys
from pathlib import Path
from designer.ledger import Ledger, LedgerError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
with Ledger.open(folder) as ledger:
    size = (folder / "ledger.sqlite-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, size + 40_000))
    written = 0
    try:
        while written < 1000:
            ledger.add_event("started", {"number": written, "text": "x" * 2000})
            written += 1
    except LedgerError as error:
        print(written, error)
"""
    make(tmp_path).__exit__(None, None, None)
    with Ledger.open(tmp_path) as ledger:
        ledger.add_event("started", {"number": -1})
        command = [sys.executable, "-c", program, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    written, _, said = done.stdout.strip().partition(" ")
    assert "make room on its disk" in said, done.stderr
    with Ledger.open(tmp_path) as ledger:
        numbers = [content["number"] for _, content in ledger.events("started")]
        assert numbers == list(range(-1, int(written)))
        ledger.add_event("started", {"number": int(written)})
