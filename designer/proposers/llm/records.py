"""Per-request records of simulations, as tables that an Analyst asks by SQL.

They come from the sandbox: the candidate's code runs there, and what comes back is numbers and short words. Only
simulations that the search has paid for are repeated, on train seeds.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from designer.readonly_sql import QueryError, Table, run_query

MAX_ROWS = 40
_COLUMNS = (
    *("arrival", "dispatched", "first_token", "finished", "worker", "tenant", "outcome"),
    *("prompt", "output", "made", "cached", "preemptions", "num_dispatches"),
)
_WORDS = ("worker", "tenant", "outcome")
_LONGEST_WORD = 64
SCHEMA = """\
requests: one row for each request and policy. policy ('reference' or 'candidate N'), request (number, in order of
  arrival), arrival, dispatched, first_token, finished (seconds since the start; NULL: never), held (seconds in the
  gateway's queue before dispatch), ttft, response_time (seconds since arrival), worker, tenant, outcome ('completed' or
  why not), prompt, output (true tokens), made (tokens made), cached (prompt tokens found in the worker's prefix cache),
  preemptions (times it lost its KV blocks and was computed again), num_dispatches
events: policy, time, kind ('arrived', 'dispatched', 'first_token', 'ended'), request, worker; ordered by time
experiments: number, hypothesis, predicted, observed (ratios to the reference, below 1 is better), status, reason"""
_TABLES = """
CREATE TABLE requests (
    policy TEXT, request INTEGER, arrival REAL, dispatched REAL, first_token REAL, finished REAL, worker TEXT,
    tenant TEXT, outcome TEXT, prompt INTEGER, output INTEGER, made INTEGER, cached INTEGER, preemptions INTEGER,
    num_dispatches INTEGER, held REAL, ttft REAL, response_time REAL
);
CREATE TABLE events (policy TEXT, time REAL, kind TEXT, request INTEGER, worker TEXT);
CREATE TABLE experiments (
    number INTEGER, hypothesis TEXT, predicted REAL, observed REAL, status TEXT, reason TEXT
);
"""
Fetch = Callable[[str], Mapping[str, Any]]
"""Columns of a policy's requests, by its name."""


class RecordsError(Exception):
    """Records that cannot be had; one line."""


class Records:
    """A database in memory for one question."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    def add_policy(self, name: str, columns: Mapping[str, Any]) -> None:
        """Load the columns of ``SimulationResult.columns``.

        Raises:
            RecordsError: they are of another form.
        """
        rows = list(zip(*(_plain(column, columns) for column in _COLUMNS), strict=False))
        if any(len(columns[column]) != len(rows) for column in _COLUMNS):
            raise RecordsError("the columns of a simulation differ in length")
        marks = ", ".join("?" * (len(_COLUMNS) + 5))
        self._db.executemany(
            f"INSERT INTO requests VALUES ({marks})",  # noqa: S608 - marks are question marks
            ((name, number, *row, *_derived(row)) for number, row in enumerate(rows)),
        )
        events = sorted(_events(name, rows), key=_by_time)
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)

    def add_experiments(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.executemany("INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?)", rows)

    def query(self, sql: str, max_rows: int = MAX_ROWS) -> Table:
        """
        Raises:
            QueryError: it would write, takes too long, or is wrong.
        """
        return run_query(self._db, sql, max_rows=max_rows)

    def summary(self) -> str:
        """The first look at every policy."""
        try:
            return self.query(_SUMMARY).text()
        except QueryError as error:
            raise RecordsError(str(error)) from None


_SUMMARY = """
SELECT policy, count(*) AS requests, sum(outcome = 'completed') AS completed, avg(response_time) AS mean_response_time,
  avg(ttft) AS mean_ttft, avg(held) AS mean_held, max(response_time) AS longest, sum(preemptions) AS preemptions,
  avg(preemptions > 0) AS preempted_share, 1.0 * sum(cached) / sum(prompt) AS cached_share
FROM requests GROUP BY policy ORDER BY policy DESC
"""


def _plain(column: str, columns: Mapping[str, Any]) -> list[Any]:
    """Numbers, words or None, whatever the sandbox sent."""
    values = columns.get(column)
    if not isinstance(values, list):
        raise RecordsError(f"a simulation gave no column {column}")
    return [_word(value) if column in _WORDS else _number(value) for value in values]


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1 << 62 else None


def _word(value: Any) -> str | None:
    return value[:_LONGEST_WORD] if isinstance(value, str) else None


def _derived(row: Sequence[Any]) -> tuple[float | None, float | None, float | None]:
    """Held, time to first token, response time."""
    arrival, dispatched, first_token, finished = row[:4]
    return _since(arrival, dispatched), _since(arrival, first_token), _since(arrival, finished)


def _since(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _events(name: str, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, float, str, int, str | None]]:
    for number, row in enumerate(rows):
        worker = row[4]
        for kind, time in zip(("arrived", "dispatched", "first_token", "ended"), row[:4], strict=True):
            if time is not None:
                yield name, time, kind, number, None if kind == "arrived" else worker


def _by_time(event: tuple[str, float, str, int, str | None]) -> tuple[float, int]:
    return event[1], event[3]
