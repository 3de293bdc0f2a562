"""The judge of the soak finds what it is there to find. The soak itself is minutes long: ``make soak``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.soak.fleet import MockProcess
from tests.soak.soak import Tally, end_of, judge
from tests.support.running_plane import Answer

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("got", "end"),
    [
        (Answer(200, SSE, b"data: {}\n\ndata: [DONE]\n\n", True), "whole"),
        (Answer(200, SSE, b"data: {}\n\n", True), None),
        (Answer(200, SSE, b"", True), None),
        (Answer(200, SSE, b'data: {"error":{"code":502}}\n\n', True), "error"),
        (Answer(200, SSE, b"data: {}\n\n", False), "reset"),
        (Answer(200, JSON, b'{"usage":{}}', True), "whole"),
        (Answer(200, JSON, b"{}", True), None),
        (Answer(503, JSON, b'{"error":{"code":503}}', True), "error"),
    ],
)
def test_how_an_answer_ended(got: Answer, end: str | None) -> None:
    assert end_of(got) == end


def arrived(number: int) -> list[Any]:
    return [number, "RequestArrived", [0.0, "r"], [["Dispatch", "r", "w", 0]]]


def ended(number: int, outcome: str, retriable: bool, *commands: list[Any]) -> list[Any]:
    return [number, "RequestEnded", [0.0, "r", outcome, 0, None, None, retriable], list(commands)]


WHOLE = [arrived(0), ended(1, "completed", False)]
LEFT = [2, "ClientLeft", [0.0, "r", 0], []]


@pytest.mark.parametrize(
    ("logged", "ends", "said"),
    [
        (WHOLE, ["whole"], ""),
        ([arrived(0), ended(1, "failed", True), *WHOLE[1:]], ["whole"], ""),
        ([arrived(0), ended(1, "failed", True, ["Reject", "r", "attempts", 1.0])], ["error"], ""),
        ([arrived(0)], ["error"], "ended 0 times in the gateway"),
        ([*WHOLE, LEFT], ["whole"], "ended 2 times in the gateway"),
        ([arrived(0), *WHOLE], ["whole"], "arrived 2 times"),
        (WHOLE, ["whole", "error"], "ended for its client as"),
    ],
)
def test_records_that_disagree_are_found(tmp_path: Path, logged: list[Any], ends: list[str], said: str) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in logged))
    wrong = " ".join(judge(Tally(ends={"r": ends}), tmp_path, []))
    assert said in wrong
    assert bool(said) == bool(wrong)


def test_an_answer_that_its_worker_does_not_know_is_found(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events-1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in WHOLE))
    worker = MockProcess(tmp_path, 0)
    worker.records.write_text("")
    tally = Tally(ends={"r": ["whole"]}, answered_by={"r": worker.worker_id})
    assert "completed it 0 times" in " ".join(judge(tally, tmp_path, [worker]))
    worker.records.write_text('{"request_id":"r","outcome":"stop"}\n')
    assert list(judge(tally, tmp_path, [worker])) == []
