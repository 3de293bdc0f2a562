"""The ledger of a run: every candidate, evaluation, decision and result, written once and never changed.

One SQLite file a run, append-only by triggers, in write-ahead mode so that a report can be read while the run goes on.
Everything a report claims can be computed again from it. The bytes evaluated are the bytes stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from designer.ledger_schema import APPEND_ONLY, SCHEMA, SCHEMA_VERSION
from designer.proposers.protocol import Proposal
from designer.sandbox import Evaluation, Tier
from designer.subject import Subject, subject_from_json, subject_of_specs

LEDGER_FILE = "ledger.sqlite"
Split = Literal["train", "validation", "sealed", "ablation", "regime", "why"]

_EVALUATIONS = (
    "SELECT digest, split, seed, tier, status, score, summary, decisions, policy_hashes, reason, simulations,"
    " wall_seconds FROM evaluations"
)


class LedgerError(Exception):
    """The ledger cannot be used, or would have to be changed; one line."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    run: str
    at: float
    """Seconds since the epoch."""
    scenario_name: str
    scenario: str
    """As JSON."""
    scenario_hash: str
    settings: Mapping[str, Any]
    secret: str
    """Keys the seeds of validation and sealed splits; never given to a proposer or a sandbox."""


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    arm: str
    number: int
    proposal: Proposal
    proposer: str
    generation: int


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    digest: str
    split: Split
    seed: int
    tier: Tier
    status: Literal["scored", "failed"]
    score: float | None
    summary: Mapping[str, Any]
    decisions: str
    policy_hashes: tuple[str, ...]
    reason: str
    simulations: int
    """What it cost; lockstep or not, one policy on one seed is one."""
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class FrozenRecord:
    """What was decided before the sealed seeds existed."""

    digest: str
    comparator: str
    metric: str
    margin: float
    alpha: float
    num_seeds: int
    max_looks: int


class Ledger:
    """Open with ``create`` or ``open``; use as a context manager. One writer at a time, any number of readers."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(cls, folder: Path, record: RunRecord) -> Ledger:
        """A new ledger in ``folder``, which is made.

        Raises:
            LedgerError: the folder has one already, or cannot be written.
        """
        path = folder / LEDGER_FILE
        if path.exists():
            raise LedgerError(f"{path}: there is a run already; choose another --out, or designer resume {folder}")
        unfinished = folder / f"{LEDGER_FILE}.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.unlink(missing_ok=True)
            _write_first(unfinished, record)
            unfinished.rename(path)
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise LedgerError(f"{folder}: cannot be written: {reason}; choose another --out") from None
        db.execute("PRAGMA journal_mode = WAL")
        return cls(path, db)

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """The ledger of an earlier run.

        Raises:
            LedgerError: there is none, or it is of another version.
        """
        path = folder if folder.name == LEDGER_FILE else folder / LEDGER_FILE
        if not path.is_file():
            raise LedgerError(f"{folder}: no run there ({LEDGER_FILE} is missing); name the folder of a designer run")
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            versions = [row[0] for row in db.execute("SELECT schema FROM run")]
        except sqlite3.DatabaseError as error:
            db.close()
            raise LedgerError(f"{path}: not a ledger: {error}") from None
        if versions != [SCHEMA_VERSION]:
            db.close()
            raise LedgerError(f"{path}: of schema {versions}, not {SCHEMA_VERSION}; use the version that wrote it")
        return cls(path, db)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    # -- writing --------------------------------------------------------------------------------------------------

    def add_subject(self, subject: Subject) -> str:
        """Store the bytes to be evaluated, once; their digest."""
        parts = json.dumps(subject.to_json()["parts"])
        self._write("INSERT OR IGNORE INTO subjects VALUES (?, ?, ?)", (subject.digest, subject.label, parts))
        return subject.digest

    def add_candidate(self, record: CandidateRecord) -> None:
        """Append a proposal. One that is there already must be the same.

        Raises:
            LedgerError: this number of this arm is another candidate.
        """
        known = self._db.execute(
            "SELECT candidate_hash FROM candidates WHERE arm = ? AND number = ?", (record.arm, record.number)
        ).fetchone()
        proposal = record.proposal
        if known is not None:
            if known[0] != proposal.candidate_hash:
                raise LedgerError(
                    f"{self.path}: candidate {record.number} of {record.arm} differs from the one stored; "
                    "the run cannot be resumed by this version"
                )
            return
        self._write(
            "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.arm,
                record.number,
                proposal.candidate_hash,
                record.proposer,
                json.dumps(proposal.parents),
                proposal.hypothesis,
                proposal.predicted_effect,
                proposal.change,
                None if proposal.program is None else json.dumps(proposal.program),
                record.generation,
                time.time(),
            ),
        )

    def add_evaluation(self, split: Split, scenario_hash: str, evaluation: Evaluation) -> None:
        """Append an outcome, failures included.

        Raises:
            LedgerError: that policy was evaluated on that seed before.
        """
        task = evaluation.task
        row = (
            task.subject.digest,
            scenario_hash,
            split,
            task.seed,
            task.tier,
            evaluation.status,
            evaluation.score,
            json.dumps(dict(evaluation.summary)),
            evaluation.decisions,
            json.dumps(evaluation.policy_hashes),
            evaluation.reason,
            1,
            evaluation.wall_seconds,
            time.time(),
        )
        try:
            self._write(
                "INSERT INTO evaluations (digest, scenario_hash, split, seed, tier, status, score, summary, decisions,"
                " policy_hashes, reason, simulations, wall_seconds, at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
        except sqlite3.IntegrityError as error:
            raise LedgerError(f"{self.path}: an evaluation cannot be written twice: {error}") from None

    def freeze(self, record: FrozenRecord) -> None:
        """Decide what is tested and how, before its seeds exist. Once for a run, unless it is the same again.

        Raises:
            LedgerError: something else was frozen.
        """
        known = self.frozen()
        if known is not None:
            if known != record:
                raise LedgerError(f"{self.path}: another policy or test was frozen; a run has one sealed test")
            return
        self._write(
            "INSERT INTO frozen VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*astuple(record), time.time()),
        )

    def add_result(self, kind: str, content: Mapping[str, Any]) -> None:
        """A conclusion of a phase. The same again is ignored.

        Raises:
            LedgerError: a different one is there.
        """
        text = json.dumps(dict(content))
        self._write("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", (kind, text, time.time()))
        if self.result(kind) != json.loads(text):
            raise LedgerError(f"{self.path}: another {kind} result is there already")

    def add_event(self, kind: str, content: Mapping[str, Any], *, once: bool = False) -> None:
        """Something that happened; ``once``: a run that goes on after a stop does not tell it again."""
        text = json.dumps(dict(content))
        known = "SELECT 1 FROM events WHERE kind = ? AND content = ?"
        if once and self._db.execute(known, (kind, text)).fetchone():
            return
        self._write("INSERT INTO events (kind, content, at) VALUES (?, ?, ?)", (kind, text, time.time()))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: cannot be written: {error}; {_advice(error)}") from None

    # -- reading --------------------------------------------------------------------------------------------------

    def run(self) -> RunRecord:
        row = self._db.execute(
            "SELECT run, at, scenario_name, scenario, scenario_hash, settings, secret FROM run"
        ).fetchone()
        run, at, name, scenario, scenario_hash, settings, secret = row
        return RunRecord(run, at, name, scenario, scenario_hash, json.loads(settings), secret)

    def subject(self, digest: str) -> Subject:
        """The bytes stored under a digest.

        Raises:
            LedgerError: there are none, or they are not what the digest says.
        """
        row = self._db.execute("SELECT label, parts FROM subjects WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise LedgerError(f"{self.path}: no policy {digest[:12]}…")
        subject = subject_from_json({"label": row[0], "parts": json.loads(row[1])})
        if subject.digest != digest:
            raise LedgerError(f"{self.path}: the bytes stored under {digest[:12]}… have another digest: it was altered")
        return subject

    def named(self, text: str) -> Subject:
        """The set a spec text names: a file as it was when the run first asked, whatever became of it since.

        Raises:
            PolicyLoadError: it was not asked for before, and cannot be read.
        """
        for _, content in self.events("named"):
            if content["spec"] == text:
                return replace(self.subject(content["digest"]), label=text)
        subject = subject_of_specs(text)
        if not subject.trusted:  # a built-in is the package's
            self.add_event("named", {"spec": text, "digest": self.add_subject(subject)})
        return subject

    def labels(self) -> dict[str, str]:
        """Of every stored policy, by digest."""
        return dict(self._db.execute("SELECT digest, label FROM subjects ORDER BY rowid").fetchall())

    def candidates(self, arm: str | None = None) -> Iterator[CandidateRecord]:
        """In the order they were proposed, arm by arm."""
        rows = self._db.execute(
            "SELECT arm, number, candidate_hash, proposer, parents, hypothesis, predicted_effect, change, program,"
            " generation FROM candidates WHERE ? IS NULL OR arm = ? ORDER BY arm, number",
            (arm, arm),
        ).fetchall()
        for row in rows:
            source = self.subject(row[2]).parts[0].source
            program = None if row[8] is None else json.loads(row[8])
            proposal = Proposal(source, row[5], row[6], tuple(json.loads(row[4])), row[7], program)
            yield CandidateRecord(row[0], row[1], proposal, row[3], row[9])

    def evaluation(
        self, digest: str, split: Split, seed: int, tier: Tier, scenario_hash: str | None = None
    ) -> EvaluationRecord | None:
        """What is known of a policy on a seed; None if it was not evaluated there.

        Args:
            scenario_hash: in this scenario; None: in whichever came first, where a split has but one.
        """
        row = self._db.execute(
            f"{_EVALUATIONS} WHERE digest = ? AND split = ? AND seed = ? AND tier = ?"
            " AND (? IS NULL OR scenario_hash = ?) ORDER BY number LIMIT 1",
            (digest, split, seed, tier, scenario_hash, scenario_hash),
        ).fetchone()
        return None if row is None else _evaluation(row)

    def evaluations(self, split: Split | None = None) -> Iterator[EvaluationRecord]:
        """In the order they were made."""
        rows = self._db.execute(f"{_EVALUATIONS} WHERE ? IS NULL OR split = ? ORDER BY number", (split, split))
        return map(_evaluation, rows.fetchall())

    def frozen(self) -> FrozenRecord | None:
        row = self._db.execute(
            "SELECT digest, comparator, metric, margin, alpha, num_seeds, max_looks FROM frozen"
        ).fetchone()
        return None if row is None else FrozenRecord(*row)

    def result(self, kind: str) -> Mapping[str, Any] | None:
        row = self._db.execute("SELECT content FROM results WHERE kind = ?", (kind,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def events(self, kind: str) -> Iterator[tuple[float, Mapping[str, Any]]]:
        """Time (seconds since the epoch) and content, oldest first."""
        rows = self._db.execute("SELECT at, content FROM events WHERE kind = ? ORDER BY number", (kind,)).fetchall()
        return ((at, json.loads(content)) for at, content in rows)


def _advice(error: sqlite3.Error) -> str:
    """What to do about it."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return "is another process writing it?"
    if "full" in text or "I/O" in text:
        return "make room on its disk and designer resume the run: what is written is kept"
    return "what is written before is kept"


def _write_first(path: Path, record: RunRecord) -> None:
    """Schema and run in a file of its own: a ledger is there whole, or not at all."""
    row = (
        *(record.run, record.at, SCHEMA_VERSION, record.scenario_name, record.scenario, record.scenario_hash),
        *(json.dumps(dict(record.settings)), record.secret),
    )
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("BEGIN;" + SCHEMA + APPEND_ONLY + "COMMIT;")
        db.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _evaluation(row: tuple[Any, ...]) -> EvaluationRecord:
    digest, split, seed, tier, status, score, summary, decisions, hashes, reason, simulations, wall = row
    known, names = json.loads(summary), tuple(json.loads(hashes))
    return EvaluationRecord(
        digest, split, seed, tier, status, score, known, decisions, names, reason, simulations, wall
    )


def seed_of(secret: str, split: Split, index: int, salt: str = "") -> int:
    """The n-th seed of a split, 48 bits, of a run's secret; ``salt`` is the frozen hash for the sealed ones."""
    digest = hashlib.blake2b(f"{split}/{salt}/{index}".encode(), key=secret.encode()[:64], digest_size=6).digest()
    return int.from_bytes(digest, "big")
