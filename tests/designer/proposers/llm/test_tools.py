"""Calls, however they are written down."""

from __future__ import annotations

import json

import pytest

from designer.proposers.llm.researcher import TOOLS, RunExperiment
from designer.proposers.llm.supervisor import Judgement
from designer.proposers.llm.tools import call_schema, read_calls, read_json

GIVEN = {"hypothesis": "h", "predicted_ratio": 0.9, "source": "def create(rng): ..."}


def reply(content: str = "", *calls: tuple[str, str]) -> dict[str, object]:
    native = [{"id": f"c{n}", "function": {"name": name, "arguments": raw}} for n, (name, raw) in enumerate(calls)]
    return {"content": content, "tool_calls": native}


def test_the_protocols_calls_come_first() -> None:
    [call] = read_calls(reply('{"tool": "finish"}', ("run_experiment", json.dumps(GIVEN))), TOOLS)
    assert call.arguments == RunExperiment(**GIVEN)
    assert call.identity == "c0"


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"tool": "run_experiment", "arguments": GIVEN}),
        f"I think:\n```json\n{json.dumps({'name': 'run_experiment', 'parameters': GIVEN})}\n```\nthat is all",
        json.dumps({"tool": "run_experiment", "arguments": GIVEN}).replace("def create", "\ndef create"),
        '{"tool": "run_experiment", "arguments": {"hypothesis": "h"}}\n```python\ndef create(rng): ...\n```',
        'A set {like this} first. {"tool": "run_experiment", "arguments": {"hypothesis": "h", "source": "x"}}',
    ],
)
def test_a_call_written_as_text_is_found(content: str) -> None:
    [call] = read_calls(reply(content), TOOLS)
    assert isinstance(call.arguments, RunExperiment), call.problem
    assert call.arguments.source
    assert call.identity == ""


@pytest.mark.parametrize("content", ["", "I wonder.", "{", '{"answer": 42}', '{"tool": 3}', "```python\nx = {}\n```"])
def test_a_text_without_a_call_has_none(content: str) -> None:
    assert read_calls(reply(content), TOOLS) == []


@pytest.mark.parametrize(
    ("name", "raw", "problem"),
    [
        ("run_experiment", "{not json", "the arguments of run_experiment are no JSON"),
        ("run_experiment", '{"hypothesis": "h"}', "run_experiment: source: Field required"),
        ("run_experiment", json.dumps({**GIVEN, "predicted_ratio": -1}), "predicted_ratio: Input should be greater"),
        ("run_experiment", json.dumps({**GIVEN, "shell": "ls"}), "shell: Extra inputs are not permitted"),
        ("run_experiment", "[1]", "arguments: Input should be a valid dictionary"),
        ("rm", "{}", "no tool 'rm'; one of run_experiment, ask_analyst"),
    ],
)
def test_what_is_wrong_is_said_in_words_to_repair_it_by(name: str, raw: str, problem: str) -> None:
    [call] = read_calls(reply("", (name, raw)), TOOLS)
    assert call.arguments is None
    assert problem in call.problem


def test_a_judgement_is_read_out_of_prose_or_its_absence_explained() -> None:
    found, problem = read_json('Well. {"decision": "stop", "message": "enough"}', Judgement)
    assert found == Judgement(decision="stop", message="enough")
    assert problem == ""
    assert read_json("no", Judgement) == (None, "no JSON object in the reply")
    found, problem = read_json('{"decision": "maybe", "message": "?"}', Judgement)
    assert found is None
    assert "decision: Input should be 'deeper', 'branch' or 'stop'" in problem


def test_schemas_are_plain() -> None:
    schema = call_schema(TOOLS)
    assert [one["properties"]["tool"]["const"] for one in schema["anyOf"]] == [tool.name for tool in TOOLS]
    assert "title" not in json.dumps(schema)
    assert TOOLS[0].native()["function"]["parameters"]["required"] == ["hypothesis", "source"]
    assert TOOLS[0].text().startswith("- `run_experiment` {")
