"""The gateway's own answers, byte for byte."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from gateway.core.commands import Reject, RejectReason
from gateway.http.answers import answer, chunk, error_body, error_chunk, rejection


def test_an_answer_says_its_length_even_when_only_its_head_is_sent() -> None:
    whole = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: 2\r\na: b\r\n\r\n{}"
    assert answer(429, b"{}", headers=b"a: b\r\n") == whole
    assert answer(429, b"{}", headers=b"a: b\r\n", head_only=True) == whole[:-2]
    assert b"connection: close\r\n" in answer(200, b"", close=True)
    assert answer(499, b"").startswith(b"HTTP/1.1 499 ")


@pytest.mark.parametrize("reason", get_args(RejectReason))
def test_every_rejection_is_an_openai_error(reason: RejectReason) -> None:
    status, body, headers = rejection(Reject("r", reason, 1.2), "some-model")
    error = json.loads(body)["error"]
    assert (error["code"], error.keys()) == (status, {"message", "type", "param", "code"})
    assert headers == b"retry-after: 2\r\n"
    assert status == {"shed": 429, "queue_full": 429, "unknown_model": 404, "attempts": 502}.get(reason, 503)
    assert ("some-model" in error["message"]) == (reason == "unknown_model")


def test_retry_after_only_where_it_makes_sense() -> None:
    assert rejection(Reject("r", "unknown_model"), "m")[2] == b""
    assert rejection(Reject("r", "shed", 0.01), "m")[2] == b"retry-after: 1\r\n"


def test_an_error_event_and_a_chunk() -> None:
    event = error_chunk("broke")
    assert json.loads(event.removeprefix(b"data: "))["error"]["message"] == "broke"
    assert event.endswith(b"\n\n")
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert json.loads(error_body(400, "m", "body.1"))["error"]["param"] == "body.1"
