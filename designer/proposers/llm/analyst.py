"""The Analyst: answers one question from per-request records, by queries and plots, with figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from designer.proposers.llm.conversation import Conversation, ConversationEndedError, Desk
from designer.proposers.llm.plots import PlotError, draw
from designer.proposers.llm.prompts import fill
from designer.proposers.llm.records import SCHEMA, Records, RecordsError
from designer.proposers.llm.tools import Arguments, Call, Tool, read_calls
from designer.readonly_sql import QueryError

_PLOTTED_ROWS = 10_000
_LONGEST_RESULT = 6000


class Sql(Arguments):
    """One SELECT over the tables; at most forty rows come back, so aggregate."""

    query: str


class Summary(Arguments):
    """Means and counts of every policy that is loaded."""


class DrawPlot(Arguments):
    """Draw the rows of one SELECT: a histogram of its first column, or its second column over its first."""

    query: str
    kind: Literal["histogram", "scatter", "line"] = "histogram"
    title: str = ""


class Report(Arguments):
    """End the work: what was found, each finding with the figures that show it."""

    findings: list[str] = Field(min_length=1)


TOOLS = (Tool("sql", Sql), Tool("summary", Summary), Tool("plot", DrawPlot), Tool("report", Report))


class Analyst:
    """One conversation about one question."""

    def __init__(self, name: str, desk: Desk, records: Records) -> None:
        settings = desk.settings
        self._turns = settings.analyst_turns
        self._records = records
        values: Mapping[str, str] = {"tables": SCHEMA, "turns": str(self._turns)}
        self._chat = Conversation(name, "analyst", desk, fill(settings.prompts["analyst"], values), TOOLS)

    async def answer(self, question: str) -> str:
        """The findings; when it does not come to an end, what it said last."""
        self._chat.tell(f"{question}\n\nThe first look:\n{self._first_look()}")
        last = ""
        try:
            for left in reversed(range(self._turns)):
                reply = await self._chat.ask()
                last = str(reply.get("content") or "") or last
                calls = read_calls(reply, TOOLS)
                if report := await self._work(calls, left):
                    return report
        except ConversationEndedError as error:
            return f"The Analyst could not finish ({error}). {last}".strip()
        return f"The Analyst came to no report. {last}".strip()

    async def _work(self, calls: list[Call], left: int) -> str:
        """Do what was called for; the report, if this was it."""
        if not calls:
            self._chat.unusable("no tool call")
            self._chat.tell(f"Call a tool; `report` ends your work. Replies left: {left}.")
        for position, call in enumerate(calls):
            if isinstance(call.arguments, Report):
                text = "\n".join(f"- {finding}" for finding in call.arguments.findings)
                self._chat.keep(call, position, text)
                return text
            if call.problem:
                self._chat.unusable(call.problem)
            text, _ = await self._chat.tool_result(call, position, lambda call=call: self._result(call))  # type: ignore[misc]
            self._chat.answer(call, text)
        return ""

    async def _result(self, call: Call) -> tuple[str, str]:
        """Text and figure."""
        try:
            match call.arguments:
                case Sql(query=query):
                    return self._records.query(query).text()[:_LONGEST_RESULT], ""
                case DrawPlot(query=query, kind=kind, title=title):
                    plot = draw(self._records.query(query, _PLOTTED_ROWS), kind, title or kind)
                    return plot.text, plot.svg
                case Summary():
                    return self._records.summary(), ""
                case _:
                    return f"error: {call.problem}", ""
        except (QueryError, PlotError, RecordsError) as error:
            return f"error: {error}", ""

    def _first_look(self) -> str:
        try:
            return self._records.summary()
        except RecordsError as error:
            return f"error: {error}"
