"""What the models of a run said and cost, by role, as data: read from its ledger, computed anew each time.

Nothing here is kept: the same ledger gives the same account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from designer.ledger import Ledger
from designer.proposers.llm.message_log import Entry, Message, MessageLog, ToolCall
from designer.proposers.llm.playground import ANALYSIS_EVENT
from designer.proposers.llm.settings import ROLES

ESTIMATE_EVENT = "llm estimate"
"""Written before the first request of a run: experiments, requests, tokens and dollars it is likely to take."""
UNUSABLE = "unusable"
"""The name of a tool call that is none: the reply could not be used, and why."""
RowKind = Literal["told", "thought", "said", "called", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class RoleAccount:
    """Of one role; failures and what was never answered are in it."""

    role: str
    models: tuple[str, ...] = ()
    calls: int = 0
    """Requests sent."""
    failures: int = 0
    """Of them, those without a reply: refused, broken off, or under way when the run was killed."""
    replies: int = 0
    usable: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float = 0.0
    estimated: int = 0
    """Requests whose tokens no server counted: charged with the most they can have been."""
    seconds: float = 0.0
    """Spent waiting for replies."""
    simulations: int = 0
    """Of a policy on a seed: the Researcher's experiments, the Analyst's repetitions."""


@dataclass(frozen=True, slots=True)
class Account:
    """Of a run; ``roles`` is empty for a run without models."""

    roles: Mapping[str, RoleAccount]
    """In the order Researcher, Analyst, Supervisor."""
    estimate: Mapping[str, float] | None = None
    """What was expected before the start: ``experiments``, ``requests``, ``tokens``, ``dollars``."""
    ends: Mapping[str, str] | None = None
    """Conversation to the reason it ended."""

    @property
    def total(self) -> RoleAccount:
        """Of all roles."""
        mine = self.roles.values()
        return RoleAccount(
            "all",
            tuple(dict.fromkeys(model for role in mine for model in role.models)),
            sum(role.calls for role in mine),
            sum(role.failures for role in mine),
            sum(role.replies for role in mine),
            sum(role.usable for role in mine),
            sum(role.tokens_in for role in mine),
            sum(role.tokens_out for role in mine),
            sum(role.dollars for role in mine),
            sum(role.estimated for role in mine),
            sum(role.seconds for role in mine),
            sum(role.simulations for role in mine),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One thing said, called or come to, in the order it happened."""

    context: str
    """``0``, ``1``, …: which Researcher with its Analyst and Supervisor."""
    role: str
    conversation: str
    turn: int
    kind: RowKind
    text: str
    """Plain text of anybody's making; escape it."""
    tool: str = ""
    """Of ``called``; ``text`` is then the arguments, ``result`` the answer."""
    result: str = ""
    figure: str = ""
    """An SVG image, where a tool drew one."""
    tokens_in: int = 0
    """Of ``said`` and ``failed``, as the rest."""
    tokens_out: int = 0
    dollars: float = 0.0
    estimated: bool = False
    seconds: float = 0.0


def account(ledger: Ledger) -> Account:
    """Who spent what. What is simulated for two contexts at once counts once."""
    with _reading(ledger) as log:
        if log is None:
            return Account({})
        entries, messages, calls = log.entries(), list(log.messages()), log.tool_calls()
        ends = log.ends()
    simulations = {"researcher": _experiments(ledger), "analyst": len(list(ledger.events(ANALYSIS_EVENT)))}
    lost = {(call.conversation, call.turn) for call in calls if call.name == UNUSABLE}
    present = [role for role in ROLES if simulations.get(role) or any(entry.role == role for entry in entries)]
    roles: dict[str, RoleAccount] = {
        role: _of_role(role, entries, messages, lost, simulations.get(role, 0)) for role in present
    }
    estimate = next((dict(content) for _, content in ledger.events(ESTIMATE_EVENT)), None)
    return Account(roles, estimate, ends)


def conversation(ledger: Ledger, name: str = "") -> list[Row]:
    """What was said, in order.

    Args:
        name: only conversations whose name begins so, as in ``0/supervisor``.
    """
    with _reading(ledger) as log:
        if log is None:
            return []
        calls: dict[tuple[str, int], list[ToolCall]] = {}
        for call in log.tool_calls():
            calls.setdefault((call.conversation, call.turn), []).append(call)
        rows: list[Row] = []
        told: set[tuple[str, int]] = set()
        for message in log.messages():
            rows += _rows(message, calls, again=(message.conversation, message.turn) in told)
            told.add((message.conversation, message.turn))
        rows += [_row(conversation, 0, "ended", reason) for conversation, reason in log.ends().items()]
    return [row for row in rows if row.conversation.startswith(name)]


@contextlib.contextmanager
def _reading(ledger: Ledger) -> Iterator[MessageLog | None]:
    with contextlib.closing(MessageLog(ledger.path, write=False)) as log:
        yield log if log.present else None


def _experiments(ledger: Ledger) -> int:
    """Simulations of the search's candidates, refused ones included, on train seeds."""
    mine = {record.proposal.candidate_hash for record in ledger.candidates("search")}
    made = (record for record in ledger.evaluations("train") if record.tier == "together" and record.digest in mine)
    return sum(record.simulations for record in made)


def _of_role(
    role: str,
    entries: Sequence[Entry],
    messages: Sequence[Message],
    lost: set[tuple[str, int]],
    simulations: int,
) -> RoleAccount:
    mine = [entry for entry in entries if entry.role == role]
    replies = [m for m in messages if m.reply is not None and role_of(m.conversation) == role]
    return RoleAccount(
        role,
        models=tuple(dict.fromkeys(entry.model for entry in mine)),
        calls=len(mine),
        failures=sum(not entry.replied for entry in mine),
        replies=len(replies),
        usable=sum((m.conversation, m.turn) not in lost for m in replies),
        tokens_in=sum(entry.tokens_in for entry in mine),
        tokens_out=sum(entry.tokens_out for entry in mine),
        dollars=sum(entry.dollars for entry in mine),
        estimated=sum(entry.estimated for entry in mine),
        seconds=sum(entry.seconds for entry in mine),
        simulations=simulations,
    )


def role_of(name: str) -> str:
    """Of a conversation."""
    return name.split("/")[1]


def _rows(message: Message, calls: Mapping[tuple[str, int], Sequence[ToolCall]], *, again: bool) -> Iterator[Row]:
    """Of an attempt; ``again``: one before it was written down with what it told."""
    name, turn, reply = message.conversation, message.turn, message.reply
    for sent in () if again else message.sent:
        yield _row(name, turn, "told", str(sent.get("content") or ""))
    cost: dict[str, Any] = {
        "tokens_in": message.prompt_tokens,
        "tokens_out": message.completion_tokens,
        "dollars": message.dollars,
        "estimated": message.estimated,
        "seconds": message.seconds,
    }
    if reply is None:
        yield _row(name, turn, "failed", message.error, **cost)
        return
    if reasoning := reply.get("reasoning"):
        yield _row(name, turn, "thought", str(reasoning))
    yield _row(name, turn, "said", str(reply.get("content") or ""), **cost)
    for call in calls.get((name, turn), ()):
        yield _row(name, turn, "called", call.arguments, tool=call.name, result=call.result, figure=call.figure)


def _row(name: str, turn: int, kind: RowKind, text: str, **rest: Any) -> Row:
    return Row(name.split("/")[0], role_of(name), name, turn, kind, text, **rest)
