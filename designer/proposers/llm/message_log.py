"""What was said, what it cost and what the tools answered: tables of their own in the ledger of a run, append-only.

A request is written before it is sent and its reply before it is used, so a run that goes on buys nothing twice. What
was sent and never answered counts with all it could have cost.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS llm_attempts (
    conversation TEXT NOT NULL, turn INTEGER NOT NULL, attempt INTEGER NOT NULL, role TEXT NOT NULL,
    model TEXT NOT NULL, reserved_tokens INTEGER NOT NULL, reserved_dollars REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (conversation, turn, attempt)
);
CREATE TABLE IF NOT EXISTS llm_messages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, conversation TEXT NOT NULL, turn INTEGER NOT NULL,
    attempt INTEGER NOT NULL, request_digest TEXT NOT NULL, sent TEXT NOT NULL, reply TEXT, error TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, dollars REAL NOT NULL,
    seconds REAL NOT NULL, at REAL NOT NULL, UNIQUE (conversation, turn, attempt)
);
CREATE TABLE IF NOT EXISTS llm_tool_calls (
    conversation TEXT NOT NULL, turn INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL,
    arguments TEXT NOT NULL, result TEXT NOT NULL, figure TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (conversation, turn, position)
);
CREATE TABLE IF NOT EXISTS llm_ends (
    conversation TEXT PRIMARY KEY, turn INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
);
"""
_TABLES = ("llm_attempts", "llm_messages", "llm_tool_calls", "llm_ends")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request about to be sent."""

    conversation: str
    """A path: ``context/agent`` and, for an Analyst, the number of the question."""
    turn: int
    """From 0."""
    attempt: int
    """From 0; further ones after failures."""
    role: str
    model: str
    reserved_tokens: int
    """The most it can use."""
    reserved_dollars: float


@dataclass(frozen=True, slots=True)
class Message:
    """What came of an attempt."""

    conversation: str
    turn: int
    attempt: int
    request_digest: str
    """SHA-256 (hex) of everything sent: model, messages, tools."""
    sent: Sequence[Mapping[str, Any]]
    """The messages that this turn adds to the conversation."""
    reply: Mapping[str, Any] | None
    """The assistant's message; None: the attempt failed."""
    error: str
    prompt_tokens: int
    completion_tokens: int
    dollars: float
    seconds: float

    @property
    def estimated(self) -> bool:
        """Whether no server counted these tokens: they are the most it can have been."""
        if self.reply is None:
            return self.prompt_tokens + self.completion_tokens > 0
        return bool(self.reply.get("estimated"))


@dataclass(frozen=True, slots=True)
class ToolCall:
    conversation: str
    turn: int
    position: int
    name: str
    arguments: str
    result: str
    figure: str = ""
    """An SVG image, where the tool drew one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt with what it cost; one that was never answered costs all that was set aside for it."""

    role: str
    model: str
    replied: bool
    tokens_in: int
    tokens_out: int
    dollars: float
    estimated: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Since the run began."""

    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0


class MessageLog:
    """The conversations of one run. One process writes."""

    def __init__(self, ledger_path: Path, *, write: bool = True) -> None:
        mode = "rw" if write else "ro"
        self._db = sqlite3.connect(
            f"{ledger_path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30.0
        )
        if write:
            self._db.executescript("BEGIN;" + _SCHEMA + "".join(map(_append_only, _TABLES)) + "COMMIT;")

    def close(self) -> None:
        self._db.close()

    @property
    def present(self) -> bool:
        """Whether the run has conversations at all."""
        query = "SELECT 1 FROM sqlite_master WHERE name = 'llm_messages'"
        return self._db.execute(query).fetchone() is not None

    # -- writing --------------------------------------------------------------------------------------------------

    def sending(self, attempt: Attempt) -> None:
        """Written before the request leaves."""
        values = (
            *(attempt.conversation, attempt.turn, attempt.attempt, attempt.role, attempt.model),
            *(attempt.reserved_tokens, attempt.reserved_dollars, time.time()),
        )
        self._db.execute("INSERT INTO llm_attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def add(self, message: Message) -> None:
        """Written before the reply is used."""
        reply = None if message.reply is None else json.dumps(dict(message.reply))
        self._db.execute(
            "INSERT INTO llm_messages (conversation, turn, attempt, request_digest, sent, reply, error, prompt_tokens,"
            " completion_tokens, dollars, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(message.conversation, message.turn, message.attempt, message.request_digest),
                *(json.dumps([dict(sent) for sent in message.sent]), reply, message.error),
                *(message.prompt_tokens, message.completion_tokens, message.dollars, message.seconds, time.time()),
            ),
        )

    def add_tool_call(self, call: ToolCall) -> None:
        self._db.execute(
            "INSERT INTO llm_tool_calls VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(call.conversation, call.turn, call.position, call.name, call.arguments, call.result, call.figure),
                time.time(),
            ),
        )

    def end(self, conversation: str, turn: int, reason: str) -> None:
        """No further turn will be asked for; the first reason stays."""
        self._db.execute(
            "INSERT OR IGNORE INTO llm_ends VALUES (?, ?, ?, ?)", (conversation, turn, reason, time.time())
        )

    # -- reading --------------------------------------------------------------------------------------------------

    def reply(self, conversation: str, turn: int) -> Message | None:
        """The reply that was bought for a turn; None if there is none yet."""
        found = [message for message in self.messages(conversation, turn) if message.reply is not None]
        return found[0] if found else None

    def num_attempts(self, conversation: str, turn: int) -> int:
        query = "SELECT count(*) FROM llm_attempts WHERE conversation = ? AND turn = ?"
        return int(self._db.execute(query, (conversation, turn)).fetchone()[0])

    def num_replies(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM llm_messages WHERE reply IS NOT NULL").fetchone()[0])

    def heard(self) -> frozenset[str]:
        """The roles whose models have replied."""
        rows = self._db.execute(
            "SELECT DISTINCT a.role FROM llm_attempts a JOIN llm_messages m USING (conversation, turn, attempt)"
            " WHERE m.reply IS NOT NULL"
        )
        return frozenset(str(role) for (role,) in rows.fetchall())

    def messages(self, conversation: str | None = None, turn: int | None = None) -> Iterator[Message]:
        """In the order they came."""
        rows = self._db.execute(
            "SELECT conversation, turn, attempt, request_digest, sent, reply, error, prompt_tokens, completion_tokens,"
            " dollars, seconds FROM llm_messages"
            " WHERE (:name IS NULL OR conversation = :name) AND (:at IS NULL OR turn = :at) ORDER BY number",
            {"name": conversation, "at": turn},
        ).fetchall()
        for name, at, attempt, digest, sent, reply, error, *figures in rows:
            told = None if reply is None else json.loads(reply)
            yield Message(name, at, attempt, digest, json.loads(sent), told, error, *figures)

    def tool_call(self, conversation: str, turn: int, position: int) -> ToolCall | None:
        found = [call for call in self.tool_calls(conversation) if (call.turn, call.position) == (turn, position)]
        return found[0] if found else None

    def tool_calls(self, conversation: str | None = None) -> list[ToolCall]:
        rows = self._db.execute(
            "SELECT conversation, turn, position, name, arguments, result, figure FROM llm_tool_calls"
            " WHERE :name IS NULL OR conversation = :name ORDER BY rowid",
            {"name": conversation},
        )
        return [ToolCall(*row) for row in rows.fetchall()]

    def ended(self, conversation: str, turn: int) -> str:
        """Why a conversation ended before this turn; empty: it did not."""
        query = "SELECT reason FROM llm_ends WHERE conversation = ? AND turn <= ?"
        row = self._db.execute(query, (conversation, turn)).fetchone()
        return "" if row is None else str(row[0])

    def ends(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT conversation, reason FROM llm_ends ORDER BY rowid").fetchall())

    def entries(self) -> list[Entry]:
        """Every attempt, in the order they were sent."""
        rows = self._db.execute(
            "SELECT a.role, a.model, m.reply IS NOT NULL, coalesce(m.prompt_tokens, a.reserved_tokens),"
            " coalesce(m.completion_tokens, 0), coalesce(m.dollars, a.reserved_dollars), m.number IS NULL OR"
            " CASE WHEN m.reply IS NULL THEN m.prompt_tokens + m.completion_tokens > 0"
            " ELSE coalesce(json_extract(m.reply, '$.estimated'), 0) END, coalesce(m.seconds, 0)"
            " FROM llm_attempts a LEFT JOIN llm_messages m USING (conversation, turn, attempt) ORDER BY a.rowid"
        )
        return [
            Entry(role, model, bool(replied), tokens_in, tokens_out, dollars, bool(estimated), seconds)
            for role, model, replied, tokens_in, tokens_out, dollars, estimated, seconds in rows.fetchall()
        ]

    def spent(self) -> Spent:
        """By everyone; what was sent and never answered with all that was reserved for it."""
        rows = list(self.spent_by_role().values())
        return Spent(
            sum(row.requests for row in rows),
            sum(row.tokens for row in rows),
            sum(row.dollars for row in rows),
            sum(row.seconds for row in rows),
        )

    def spent_by_role(self) -> dict[str, Spent]:
        rows = self._db.execute(
            "SELECT a.role, count(*), sum(coalesce(m.prompt_tokens + m.completion_tokens, a.reserved_tokens)),"
            " sum(coalesce(m.dollars, a.reserved_dollars)), sum(coalesce(m.seconds, 0))"
            " FROM llm_attempts a LEFT JOIN llm_messages m USING (conversation, turn, attempt)"
            " GROUP BY a.role ORDER BY a.role"
        )
        return {role: Spent(*figures) for role, *figures in rows.fetchall()}


def _append_only(table: str) -> str:
    return "".join(
        f"CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
        for verb in ("UPDATE", "DELETE")
    )
