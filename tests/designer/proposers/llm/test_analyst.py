"""The Analyst: measures with its tools and reports; cannot write, cannot go on for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from designer.proposers.llm.analyst import Analyst
from designer.proposers.llm.conversation import Desk
from designer.proposers.llm.records import Records
from tests.designer.proposers.llm.test_records import COLUMNS
from tests.support.conversations import desk_of
from tests.support.scripted_models import Cast, says

QUERY = "SELECT policy, avg(response_time) AS mean FROM requests GROUP BY policy"


@asynccontextmanager
async def analyst(cast: Cast, folder: Path, **changes: Any) -> AsyncIterator[tuple[Analyst, Desk]]:
    records = Records()
    records.add_policy("reference", COLUMNS)
    async with desk_of(cast, folder, **changes) as desk:
        yield Analyst("0/analyst/1", desk, records), desk
    records.close()


def results(cast: Cast) -> list[str]:
    """What the tools answered, as the model saw it last."""
    return [m["content"] for m in cast.heard["analyst"][-1]["messages"] if m["role"] == "tool"]


async def test_it_queries_plots_and_reports(tmp_path: Path) -> None:
    lines = [
        says(calls=[("sql", {"query": QUERY}), ("summary", {})]),
        says(calls=[("plot", {"query": "SELECT response_time FROM requests", "title": "times"})]),
        says(calls=[("report", {"findings": ["half time out", "the mean is 2 s"]})]),
    ]
    cast = Cast(analyst=lines)
    async with analyst(cast, tmp_path) as (asked, desk):
        assert await asked.answer("Where is time lost?") == "- half time out\n- the mean is 2 s"
        calls = desk.log.tool_calls("0/analyst/1")
    assert [call.name for call in calls] == ["sql", "summary", "plot", "report"]
    assert calls[2].figure.startswith("<svg")
    sql, summary, plot = results(cast)
    assert "reference  2" in sql
    assert "mean_response_time" in summary
    assert "times: response_time, 2 values" in plot
    assert "<svg" not in cast.texts("analyst")
    assert "Where is time lost?" in cast.texts("analyst")


async def test_errors_go_back_to_it(tmp_path: Path) -> None:
    wrong = [
        ("sql", {"query": "DROP TABLE requests"}),
        ("sql", {"query": "SELECT nothing"}),
        ("sql", {}),
        ("plot", {"query": "SELECT policy FROM requests"}),
        ("shell", {"command": "ls"}),
    ]
    cast = Cast(analyst=[says(calls=wrong), says(calls=[("report", {"findings": ["none"]})])])
    async with analyst(cast, tmp_path) as (asked, _):
        await asked.answer("?")
    assert [text.split(":")[0] for text in results(cast)] == ["error"] * 5
    assert "only reading is allowed" in results(cast)[0]
    assert "no tool 'shell'" in results(cast)[4]


async def test_an_endless_loop_of_queries_ends(tmp_path: Path) -> None:
    cast = Cast(analyst=[says("I look.", [("sql", {"query": QUERY})])])
    async with analyst(cast, tmp_path, analyst_turns=3) as (asked, _):
        assert await asked.answer("?") == "The Analyst came to no report. I look."
    assert len(cast.heard["analyst"]) == 3


async def test_prose_alone_is_asked_to_call_and_a_cap_ends_it(tmp_path: Path) -> None:
    cast = Cast(analyst=[says("It is the queue.")])
    async with analyst(cast, tmp_path, analyst_turns=2) as (asked, desk):
        assert "It is the queue." in await asked.answer("?")
        assert [call.name for call in desk.log.tool_calls()] == ["unusable", "unusable"]
    assert "Call a tool; `report` ends your work. Replies left: 1." in cast.texts("analyst")
    async with analyst(Cast(analyst=[says("x")]), tmp_path / "poor", caps={"requests": 0}) as (asked, _):
        assert await asked.answer("?") == "The Analyst could not finish (cap of 0 requests reached)."
