"""The tables of a ledger, and the triggers that refuse every change."""

from __future__ import annotations

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE run (
    run TEXT PRIMARY KEY, at REAL NOT NULL, schema INTEGER NOT NULL, scenario_name TEXT NOT NULL,
    scenario TEXT NOT NULL, scenario_hash TEXT NOT NULL, settings TEXT NOT NULL, secret TEXT NOT NULL
);
CREATE TABLE subjects (
    digest TEXT PRIMARY KEY, label TEXT NOT NULL, parts TEXT NOT NULL
);
CREATE TABLE candidates (
    arm TEXT NOT NULL, number INTEGER NOT NULL, candidate_hash TEXT NOT NULL REFERENCES subjects (digest),
    proposer TEXT NOT NULL, parents TEXT NOT NULL, hypothesis TEXT NOT NULL, predicted_effect REAL,
    change TEXT NOT NULL, program TEXT, generation INTEGER NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (arm, number)
);
CREATE TABLE evaluations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL REFERENCES subjects (digest),
    scenario_hash TEXT NOT NULL, split TEXT NOT NULL, seed INTEGER NOT NULL, tier TEXT NOT NULL,
    status TEXT NOT NULL, score REAL, summary TEXT NOT NULL, decisions TEXT NOT NULL, policy_hashes TEXT NOT NULL,
    reason TEXT NOT NULL, simulations INTEGER NOT NULL, wall_seconds REAL NOT NULL, at REAL NOT NULL,
    UNIQUE (digest, scenario_hash, split, seed, tier)
);
CREATE TABLE frozen (
    digest TEXT PRIMARY KEY REFERENCES subjects (digest), comparator TEXT NOT NULL REFERENCES subjects (digest),
    metric TEXT NOT NULL, margin REAL NOT NULL, alpha REAL NOT NULL, num_seeds INTEGER NOT NULL,
    max_looks INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE results (
    kind TEXT PRIMARY KEY, content TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, content TEXT NOT NULL, at REAL NOT NULL
);
"""
_TABLES = ("run", "subjects", "candidates", "evaluations", "frozen", "results", "events")


def _append_only(table: str) -> str:
    return "".join(
        f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
        for verb in ("UPDATE", "DELETE")
    )


APPEND_ONLY = "".join(map(_append_only, _TABLES))
