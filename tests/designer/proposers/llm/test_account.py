"""Who spent what and who said what, from the ledger alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from designer.ledger import CandidateRecord, Ledger
from designer.proposers.llm.account import ESTIMATE_EVENT, account, conversation
from designer.proposers.llm.message_log import Attempt, Message, MessageLog, ToolCall
from designer.proposers.llm.playground import ANALYSIS_EVENT
from designer.proposers.protocol import Proposal
from designer.sandbox import Evaluation, Task
from designer.search import new_ledger
from designer.subject import subject_of_source
from tests.designer.test_by_hand import BY_HAND
from tests.support.scripted_models import GOOD
from tests.support.small_scenario import small_scenario


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path, small_scenario(60), BY_HAND, secret="s") as made:
        yield made


def spoken(ledger: Ledger) -> None:
    """Two replies of the Researcher, one of them unusable; one failure paid for, one free, one never answered."""
    log = MessageLog(ledger.path)
    for attempt, (reply, error, tokens) in enumerate(
        [
            (None, "Error code: 429", (0, 0)),
            (None, "the reply was cut off", (80, 20)),
            ({"content": "Hm.", "reasoning": "why?"}, "", (90, 10)),
        ]
    ):
        log.sending(Attempt("0/researcher", 0, attempt, "researcher", "large", 100, 0.5))
        sent = [{"role": "user", "content": "Well?"}]
        log.add(Message("0/researcher", 0, attempt, "d", sent, reply, error, *tokens, sum(tokens) / 1000, 1.0))
    log.sending(Attempt("0/supervisor", 0, 0, "supervisor", "small", 70, 0.25))
    log.sending(Attempt("0/researcher", 1, 0, "researcher", "larger", 100, 0.5))
    told = [{"role": "user", "content": "Use a tool."}]
    counted = {"content": "", "estimated": True}
    log.add(Message("0/researcher", 1, 0, "d", told, counted, "", 300, 30, 0.33, 2.0))
    log.add_tool_call(ToolCall("0/researcher", 0, -1, "unusable", "", "no tool was called"))
    log.add_tool_call(ToolCall("0/researcher", 1, 0, "plot", "{}", "a plot", "<svg/>"))
    log.end("0/researcher", 2, "cap of $5")
    log.close()


def simulated(ledger: Ledger) -> None:
    """A candidate on two train seeds and in lockstep on one, a policy of nobody's, and two for the Analyst."""
    subject, other = subject_of_source(GOOD, "mine"), subject_of_source(f"{GOOD}\n", "other")
    for known in (subject, other):
        ledger.add_subject(known)
    ledger.add_candidate(CandidateRecord("search", 0, Proposal(GOOD, "h", None), "llm", 0))
    tasks = [Task(subject, 1), Task(subject, 2), Task(subject, 1, "lockstep"), Task(other, 1)]
    for task in tasks:
        ledger.add_evaluation("train", "hash", Evaluation(task, "failed", reason="no"))
    for seed in (1, 2):
        ledger.add_event(ANALYSIS_EVENT, {"digest": "d", "seed": seed})


def test_every_request_is_in_the_account_of_its_role(ledger: Ledger) -> None:
    spoken(ledger)
    simulated(ledger)
    found = account(ledger)
    assert list(found.roles) == ["researcher", "analyst", "supervisor"]
    assert (found.roles["analyst"].calls, found.roles["analyst"].simulations) == (0, 2)
    mine = found.roles["researcher"]
    assert mine.models == ("large", "larger")
    assert (mine.calls, mine.failures, mine.replies, mine.usable) == (4, 2, 2, 1)
    assert (mine.tokens_in, mine.tokens_out, mine.seconds) == (470, 60, 5.0)
    assert mine.dollars == pytest.approx(0.53)
    assert mine.estimated == 2
    assert mine.simulations == 2
    theirs = found.roles["supervisor"]
    assert (theirs.calls, theirs.failures, theirs.replies, theirs.estimated) == (1, 1, 0, 1)
    assert (theirs.tokens_in, theirs.dollars) == (70, 0.25)
    assert found.total.calls == 5
    assert found.ends == {"0/researcher": "cap of $5"}
    log = MessageLog(ledger.path, write=False)
    assert found.total.dollars == pytest.approx(log.spent().dollars)
    assert found.total.tokens_in + found.total.tokens_out == log.spent().tokens
    log.close()


def test_what_was_said_comes_in_order_with_its_cost(ledger: Ledger) -> None:
    spoken(ledger)
    rows = conversation(ledger)
    assert [(row.kind, row.turn) for row in rows] == [
        *(("told", 0), ("failed", 0), ("failed", 0), ("thought", 0), ("said", 0), ("called", 0)),
        *(("told", 1), ("said", 1), ("called", 1), ("ended", 0)),
    ]
    assert [row.estimated for row in rows if row.kind in ("failed", "said")] == [False, True, False, True]
    plot = next(row for row in rows if row.figure)
    assert (plot.context, plot.role, plot.tool, plot.result) == ("0", "researcher", "plot", "a plot")
    assert conversation(ledger, "1/") == []


def test_what_was_told_is_there_also_when_the_first_attempt_was_lost(ledger: Ledger) -> None:
    log = MessageLog(ledger.path)
    for attempt in (0, 1):
        log.sending(Attempt("0/analyst/1", 0, attempt, "analyst", "m", 100, 0.5))
    sent = [{"role": "user", "content": "Well?"}]
    log.add(Message("0/analyst/1", 0, 1, "d", sent, {"content": "Yes."}, "", 9, 1, 0.1, 1.0))
    log.close()
    assert [(row.kind, row.text) for row in conversation(ledger)] == [("told", "Well?"), ("said", "Yes.")]


def test_the_estimate_is_shown_beside(ledger: Ledger) -> None:
    spoken(ledger)
    assert account(ledger).estimate is None
    ledger.add_event(ESTIMATE_EVENT, {"dollars": 3.5}, once=True)
    assert account(ledger).estimate == {"dollars": 3.5}


def test_a_run_without_models_has_no_account(ledger: Ledger) -> None:
    assert account(ledger).roles == {}
    assert account(ledger).total.calls == 0
    assert conversation(ledger) == []
