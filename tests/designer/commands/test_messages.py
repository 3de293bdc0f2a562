"""``designer messages``: the conversation as a person reads it, its costs, its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from designer.cli import app, main
from designer.proposers.llm.message_log import Attempt, Message, MessageLog, ToolCall
from designer.search import new_ledger
from tests.designer.test_by_hand import BY_HAND
from tests.support.small_scenario import small_scenario


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with new_ledger(tmp_path / "run", small_scenario(60), BY_HAND, secret="s") as ledger:
        log = MessageLog(ledger.path)
    for turn, (name, reply, error) in enumerate(
        [
            ("0/researcher", None, "Error code: 429 - slow down"),
            ("0/researcher", {"content": "I think.\nYes.", "reasoning": "hm"}, ""),
            ("0/analyst/1", {"content": ""}, ""),
        ]
    ):
        log.sending(Attempt(name, turn, 0, name.split("/")[1], "m", 100, 0.5))
        sent = [{"role": "user", "content": "Well?"}]
        log.add(Message(name, turn, 0, "d", sent, reply, error, 90 * bool(reply), 10 * bool(reply), 0.25, 1.0))
    log.add_tool_call(ToolCall("0/researcher", 1, -1, "unusable", "", "no tool was called"))
    log.add_tool_call(ToolCall("0/analyst/1", 2, 0, "plot", '{"query": "SELECT 1"}', "a plot", "<svg/>"))
    log.end("0/researcher", 2, "cap of $5")
    log.close()
    return tmp_path / "run"


def show(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["messages", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_the_conversation_is_readable(run: Path) -> None:
    text = show(str(run))
    assert "== 0/researcher, turn 0: 0+0 tokens" in text
    assert "! Error code: 429 - slow down" in text
    assert "(thought) hm\n< I think.\n  Yes.\n  [unusable] \n  = no tool was called" in text
    assert '[plot] {"query": "SELECT 1"}\n  = a plot' in text
    assert "== 0/researcher ended: cap of $5" in text
    assert "researcher   2         1       100         0.5000    2.0      1        0       0" in text


def test_costs_alone_one_conversation_and_figures(run: Path, tmp_path: Path) -> None:
    assert "I think" not in show(str(run), "--costs")
    text = show(str(run), "--conversation", "0/analyst", "--figures", str(tmp_path / "figures"))
    assert "I think" not in text
    assert (tmp_path / "figures" / "0-analyst-1-2-0.svg").read_text() == "<svg/>"


def test_all_of_it_as_json(run: Path) -> None:
    told = json.loads(show(str(run), "--json"))
    assert told["usable"] == {"analyst": {"replies": 1, "usable": 1}, "researcher": {"replies": 1, "usable": 0}}
    assert told["spent"]["researcher"]["dollars"] == 0.5
    assert len(told["messages"]) == 3


def test_a_run_without_models_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_ledger(tmp_path / "run", small_scenario(60), BY_HAND, secret="s"):
        pass
    monkeypatch.setattr("sys.argv", ["designer", "messages", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    assert "no conversation; only runs with --proposer llm have them" in capsys.readouterr().err
