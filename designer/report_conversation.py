"""What models said and cost: by role, and word for word. All of it is somebody else's text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import groupby

from designer.html_parts import note, table
from designer.proposers.llm.account import Account, RoleAccount, Row

_MOST_ROWS = 400
"""In the page; all of them are in the ledger."""
_MOST_CHARACTERS = 4000
_WORDS = {
    "told": "was told",
    "thought": "thought",
    "said": "said",
    "called": "called",
    "failed": "got no usable reply",
    "ended": "ended",
}


def conversation_sections(account: Account | None, rows: Sequence[Row], run: str) -> Iterator[str]:
    """Nothing for a run without models.

    Args:
        run: the folder, as it is written in a command.
    """
    if account is None or not account.roles:
        return
    yield f"<h2 id='models'>What models cost</h2>{_costs(account)}"
    if account.estimate:
        guess = account.estimate
        yield note(
            f"Expected before the start: {guess['requests']:.0f} requests, {guess['tokens']:,.0f} tokens, "
            f"${guess['dollars']:.2f}. Dollars of requests whose tokens no server counted are the most they can be."
        )
    yield "<h2 id='conversation'>What they said</h2>"
    shown = rows[:_MOST_ROWS]
    for name, mine in groupby(shown, key=lambda row: row.conversation):
        yield _conversation(name, list(mine))
    command = f"<code>designer messages {html.escape(run)}</code>"
    left = f" The first {_MOST_ROWS} of {len(rows)} entries are here." if len(rows) > _MOST_ROWS else ""
    yield f"<p class='note'>{command} prints all of it.{left}</p>"


def _costs(account: Account) -> str:
    every = [*account.roles.values(), *([account.total] if len(account.roles) > 1 else [])]
    head = ("role", "model", "requests", "usable replies", "tokens in", "tokens out", "dollars", "simulations")
    return table(head, [_cost(role) for role in every])


def _cost(role: RoleAccount) -> tuple[str, ...]:
    return (
        role.role,
        ", ".join(role.models),
        f"{role.calls}" + (f" ({role.failures} failed)" if role.failures else ""),
        f"{role.usable} of {role.replies}",
        f"{role.tokens_in:,}",
        f"{role.tokens_out:,}",
        f"{role.dollars:.4f}" + (f" ({role.estimated} estimated)" if role.estimated else ""),
        str(role.simulations),
    )


def _conversation(name: str, rows: Sequence[Row]) -> str:
    turns = "".join(_row(row) for row in rows)
    return f"<details><summary>{html.escape(name)}: {len(rows)} entries</summary>{turns}</details>"


def _row(row: Row) -> str:
    what = f"{_WORDS[row.kind]} {html.escape(row.tool)}".strip()
    text = f"<h3>{html.escape(row.role)} {what}</h3>{_words(row.text)}"
    if row.result:
        text += f"<p class='note'>answered</p>{_words(row.result)}"
    return text + (f"<p class='note'>{html.escape(_price(row))}</p>" if row.tokens_out or row.dollars else "")


def _words(text: str) -> str:
    if not text.strip():
        return ""
    cut = len(text) - _MOST_CHARACTERS
    shown = text[:_MOST_CHARACTERS] + (f"\n… {cut} characters more" if cut > 0 else "")
    return f"<pre class='told'>{html.escape(shown)}</pre>"


def _price(row: Row) -> str:
    return f"{row.tokens_in:,} tokens in, {row.tokens_out:,} out, ${row.dollars:.4f}, {row.seconds:.1f} s"
