"""Conversations beside the ledger: written once, read back as they were, charged even when nobody answered."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from designer.ledger import Ledger, RunRecord
from designer.proposers.llm.message_log import Attempt, Message, MessageLog, Spent, ToolCall
from tests.support.small_scenario import small_scenario

REPLY = {"role": "assistant", "content": "yes"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    record = RunRecord("r", 0.0, "small", small_scenario().model_dump_json(), "hash", {}, "s")
    with Ledger.create(tmp_path, record) as ledger:
        return ledger.path


def attempt(turn: int = 0, number: int = 0, role: str = "researcher") -> Attempt:
    return Attempt("0/researcher", turn, number, role, "m", 1000, 0.5)


def message(turn: int = 0, number: int = 0, reply: dict[str, str] | None = REPLY) -> Message:
    sent = [{"role": "user", "content": "well?"}]
    return Message("0/researcher", turn, number, "digest", sent, reply, "", 10, 2, 0.01, 0.5)


def test_it_lives_in_the_ledger_of_an_older_run_too_and_says_when_there_is_nothing(path: Path) -> None:
    reader = MessageLog(path, write=False)
    assert not reader.present
    log = MessageLog(path)
    assert log.present
    assert reader.present
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.sending(attempt())
    for opened in (log, reader):
        opened.close()


def test_a_failed_attempt_is_no_reply_and_the_next_is(path: Path) -> None:
    log = MessageLog(path)
    log.sending(attempt())
    log.add(message(reply=None))
    assert log.reply("0/researcher", 0) is None
    log.sending(attempt(number=1))
    log.add(message(number=1))
    assert log.reply("0/researcher", 0) == message(number=1)
    assert [found.attempt for found in log.messages()] == [0, 1]
    assert log.num_attempts("0/researcher", 0) == 2
    assert log.num_replies() == 1
    log.close()


def test_what_was_sent_and_never_answered_costs_all_it_could(path: Path) -> None:
    log = MessageLog(path)
    log.sending(attempt())
    log.add(message())
    log.sending(attempt(turn=1, role="analyst"))
    assert log.spent() == Spent(2, 1012, 0.51, 0.5)
    assert log.spent_by_role() == {"analyst": Spent(1, 1000, 0.5, 0), "researcher": Spent(1, 12, 0.01, 0.5)}
    log.close()


def test_tool_calls_and_ends_are_kept(path: Path) -> None:
    log = MessageLog(path)
    call = ToolCall("0/researcher", 3, 0, "plot", "{}", "text", "<svg/>")
    log.add_tool_call(call)
    assert log.tool_call("0/researcher", 3, 0) == call
    assert log.tool_call("0/researcher", 3, 1) is None
    log.end("0/researcher", 5, "cap")
    log.end("0/researcher", 5, "another reason")
    assert [log.ended("0/researcher", turn) for turn in (4, 5, 6)] == ["", "cap", "cap"]
    assert log.ends() == {"0/researcher": "cap"}
    log.close()


@pytest.mark.parametrize("table", ["llm_attempts", "llm_messages", "llm_tool_calls", "llm_ends"])
def test_nothing_that_is_written_can_be_changed(path: Path, table: str) -> None:
    log = MessageLog(path)
    log.sending(attempt())
    log.add(message())
    log.add_tool_call(ToolCall("0/researcher", 3, 0, "sql", "{}", "text"))
    log.end("0/researcher", 5, "cap")
    log.close()
    db = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(f"UPDATE {table} SET conversation = 'x'")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(f"DELETE FROM {table}")
    db.close()
