"""``designer messages``: what the models of a run said, asked and cost."""

from __future__ import annotations

import json as json_module
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from designer.ledger import Ledger, LedgerError
from designer.proposers.llm.account import UNUSABLE, Account, account, role_of
from designer.proposers.llm.message_log import Message, MessageLog, ToolCall


def messages_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    conversation: Annotated[
        str, typer.Option(help="Only conversations whose name begins so, as in 0/supervisor.")
    ] = "",
    figures: Annotated[Path | None, typer.Option(help="Write the Analyst's plots, as SVG, into this folder.")] = None,
    costs: Annotated[bool, typer.Option("--costs", help="Only what was spent, by role.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show the conversations of a run with models, with every tool call and what it cost.

    Example: designer messages runs/first --conversation 0/researcher
    """
    with Ledger.open(run) as ledger:
        log = MessageLog(ledger.path, write=False)
        try:
            if not log.present:
                raise LedgerError(f"{run}: no conversation; only runs with --proposer llm have them")
            _show(ledger, log, conversation, figures, costs, json)
        finally:
            log.close()


def _show(ledger: Ledger, log: MessageLog, conversation: str, figures: Path | None, costs: bool, json: bool) -> None:
    messages = [m for m in log.messages() if m.conversation.startswith(conversation)]
    calls = [c for c in log.tool_calls() if c.conversation.startswith(conversation)]
    if figures is not None:
        _write_figures(calls, figures)
    if json:
        typer.echo(json_module.dumps(_content(ledger, log, messages, calls), indent=2))
        return
    if not costs:
        for text in _transcript(log, messages, calls):
            typer.echo(text)
    typer.echo(costs_text(account(ledger)))


def _content(ledger: Ledger, log: MessageLog, messages: list[Message], calls: list[ToolCall]) -> dict[str, Any]:
    return {
        "messages": [asdict(message) for message in messages],
        "tool_calls": [asdict(call) for call in calls],
        "ends": log.ends(),
        "spent": {role: asdict(spent) for role, spent in log.spent_by_role().items()},
        "account": asdict(account(ledger)),
        "usable": _usable(messages, calls),
    }


def _usable(messages: list[Message], calls: list[ToolCall]) -> dict[str, dict[str, int]]:
    """By role, the replies and how many of them could be used at all."""
    replies = Counter(role_of(message.conversation) for message in messages if message.reply is not None)
    unusable = {(call.conversation, call.turn) for call in calls if call.name == UNUSABLE}
    lost = Counter(role_of(conversation) for conversation, _ in unusable)
    return {role: {"replies": count, "usable": count - lost[role]} for role, count in sorted(replies.items())}


def _transcript(log: MessageLog, messages: list[Message], calls: list[ToolCall]) -> list[str]:
    lines = []
    ends = log.ends()
    by_turn: dict[tuple[str, int], list[ToolCall]] = {}
    for call in calls:
        by_turn.setdefault((call.conversation, call.turn), []).append(call)
    for message in messages:
        lines.append(_head(message))
        lines += [f"> {sent['role']}: {_indented(str(sent.get('content') or ''))}" for sent in message.sent]
        lines += _reply(message)
        for call in by_turn.get((message.conversation, message.turn), ()) if message.reply is not None else ():
            lines.append(f"  [{call.name}] {_indented(call.arguments)}\n  = {_indented(call.result)}")
    lines += [f"== {name} ended: {reason}" for name, reason in ends.items()]
    return lines


def _head(message: Message) -> str:
    cost = (
        f"{message.prompt_tokens}+{message.completion_tokens} tokens, ${message.dollars:.4f}, {message.seconds:.1f} s"
    )
    again = f", attempt {message.attempt + 1}" if message.attempt else ""
    return f"\n== {message.conversation}, turn {message.turn}{again}: {cost}"


def _reply(message: Message) -> list[str]:
    if message.reply is None:
        return [f"! {message.error}"]
    lines = []
    if reasoning := message.reply.get("reasoning"):
        lines.append(f"(thought) {_indented(str(reasoning))}")
    if content := message.reply.get("content"):
        lines.append(f"< {_indented(str(content))}")
    return lines


def _indented(text: str) -> str:
    return text.rstrip().replace("\n", "\n  ")


def costs_text(found: Account) -> str:
    """A table by role, and what was expected before the start."""
    lines = ["", "role         requests  failed  tokens      dollars   seconds  replies  usable  simulations"]
    for role in (*found.roles.values(), found.total):
        tokens = f"{role.tokens_in + role.tokens_out}{'*' if role.estimated else ''}"
        lines.append(
            f"{role.role:<12} {role.calls:<9} {role.failures:<7} {tokens:<11} {role.dollars:<9.4f} "
            f"{role.seconds:<8.1f} {role.replies:<8} {role.usable:<7} {role.simulations}"
        )
    if estimated := found.total.estimated:
        lines.append(f"* {estimated} requests that no server counted are charged with the most they can have been")
    if guess := found.estimate:
        lines.append(
            f"estimated before the start: {guess['experiments']:.0f} experiments, {guess['requests']:.0f} requests, "
            f"{guess['tokens']:.0f} tokens, ${guess['dollars']:.4f}"
        )
    return "\n".join(lines)


def _write_figures(calls: list[ToolCall], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for call in calls:
        if call.figure:
            name = f"{call.conversation.replace('/', '-')}-{call.turn}-{call.position}.svg"
            (folder / name).write_text(call.figure)
