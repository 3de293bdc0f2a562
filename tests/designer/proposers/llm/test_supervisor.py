"""The Supervisor: one JSON object, repaired once, never any code."""

from __future__ import annotations

from pathlib import Path

from designer.proposers.llm.digest import Finding
from designer.proposers.llm.prompts import MARKS
from designer.proposers.llm.supervisor import UNUSABLE, Judgement, Supervisor, View, recalled
from tests.support.conversations import desk_of
from tests.support.scripted_models import GOOD, Cast, judges, says

VALUES = {mark: f"<{mark}>" for mark in MARKS["supervisor"]}
FINDINGS = [Finding("F1", "why?", "they wait"), Finding("F2", "where?", "in the queue")]
ROW = (0, "short first", None, 0.9, "scored", "")
VIEW = View([ROW], FINDINGS, f"I wrote this:\n```python\n{GOOD}```\nIt should help.", 42)


async def test_it_judges_what_it_is_shown_and_sees_no_code(tmp_path: Path) -> None:
    cast = Cast(supervisor=[judges("branch", "Look at held requests.", ["F2"])])
    async with desk_of(cast, tmp_path) as desk:
        judgement = await Supervisor("0/supervisor", desk, VALUES).judge(VIEW)
    assert judgement == Judgement(decision="branch", message="Look at held requests.", recall=["F2"])
    shown = cast.texts("supervisor")
    assert "candidate 0: no prediction, observed 0.900. short first" in shown
    assert "It should help." in shown
    assert "Simulations left: 42" in shown
    assert "def route" not in shown


async def test_no_part_of_what_it_is_shown_holds_code(tmp_path: Path) -> None:
    line = "return min(candidates, key=lambda candidate: candidate.worker.num_inflight_prompt_tokens)"
    failed = (1, f"so: {line}", 0.9, None, "failed", f"line 6: {line}: no")
    view = View([failed], [Finding("F1", f"is {line} good?", f"- {line} took 3 s")], "", 1, [GOOD])
    cast = Cast(supervisor=[judges()])
    async with desk_of(cast, tmp_path) as desk:
        await Supervisor("0/supervisor", desk, VALUES).judge(view)
    shown = cast.texts("supervisor")
    assert "return min" not in shown
    assert "candidate 1: predicted 0.900, failed: line 6: [code]: no. so: [code]" in shown
    assert "F1. is [code] good?: - [code] took 3 s" in shown


async def test_bad_json_is_repaired_once_and_then_done_without(tmp_path: Path) -> None:
    cast = Cast(supervisor=[says("go on!"), judges("stop", "enough")])
    async with desk_of(cast, tmp_path) as desk:
        judgement = await Supervisor("0/supervisor", desk, VALUES).judge(VIEW)
        assert judgement.decision == "stop"
        assert [call.result for call in desk.log.tool_calls()] == ["no JSON object in the reply"]
        cast.lines["supervisor"] = [says('{"decision": "perhaps"}')]
        assert await Supervisor("1/supervisor", desk, VALUES).judge(VIEW) == UNUSABLE
    assert "That cannot be used: no JSON object in the reply" in str(cast.heard["supervisor"][1])
    assert len(cast.heard["supervisor"]) == 4


async def test_a_server_that_can_is_told_the_form(tmp_path: Path) -> None:
    cast = Cast(supervisor=[judges()])
    async with desk_of(cast, tmp_path, supervisor={"structured": "json_schema"}) as desk:
        await Supervisor("0/supervisor", desk, VALUES).judge(VIEW)
    schema = cast.heard["supervisor"][0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["decision"]["enum"] == ["deeper", "branch", "stop"]


def test_what_it_recalls_is_read_again() -> None:
    text = recalled(Judgement(decision="deeper", message="Why?", recall=["F2", "F9"]), FINDINGS)
    assert text == "The Supervisor: Why?\n\nRecall:\nF2. where?: in the queue"
