"""Bytes in, an answer out: fed whole and in pieces of every size."""

from __future__ import annotations

import itertools

import httptools
import orjson
import pytest

from loadgen.reply import Answer, Reply

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": 9, "total_tokens": 25}}
BARE_END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
ERROR = {"error": {"message": "engine is dead", "type": "InternalServerError", "param": None, "code": 500}}
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"


def token(text: str = " a", **more) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]}


def event(value) -> bytes:
    return value if isinstance(value, bytes) else b"data: " + orjson.dumps(value) + b"\n\n"


def streamed(*events, headers: bytes = b"") -> list[bytes]:
    """The head, then a chunk for each event, then the end."""
    chunks = [b"%x\r\n%s\r\n" % (len(body), body) for body in map(event, events)]
    return [HEAD + headers + b"\r\n", *chunks, b"0\r\n\r\n"]


def plain(status: int, body: bytes) -> list[bytes]:
    return [b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)), body]


def read(pieces: list[bytes]) -> Answer:
    """Each piece arrives one second after the one before, the first at 1.0."""
    seconds = itertools.count(1)
    now = [0.0]
    answer = Answer(sent=0.0)
    reply = Reply(answer, lambda: now[0])
    try:
        for piece in pieces:
            now[0] = float(next(seconds))
            reply.parser.feed_data(piece)
        if not reply.complete:
            reply.closed()
    except httptools.HttpParserError as error:
        reply.fail("bad response", str(error))
    reply.conclude()
    return answer


def test_a_chat_stream():
    answer = read(streamed(ROLE, token(), token(), token(), USAGE, DONE, headers=b"x-ranvier-worker: w7\r\n"))
    assert (answer.error, answer.status, answer.worker) == (None, 200, "w7")
    assert (answer.first_token, answer.end) == (3.0, 8.0)
    assert answer.num_token_events == 3
    assert answer.usage["completion_tokens"] == 9
    assert answer.max_gap == 1.0


@pytest.mark.parametrize(
    ("before", "first"),
    [
        pytest.param([ROLE], token(), id="the role is no token"),
        pytest.param([COMMENT, COMMENT, ROLE], token(), id="nor is a comment"),
        pytest.param([USAGE], token(), id="nor is usage"),
        pytest.param([], token("Hi", role="assistant"), id="role and text in one"),
        pytest.param([ROLE], token(""), id="half a character: no text yet, but a token"),
        pytest.param([ROLE], token("", reasoning_content="hm"), id="reasoning"),
        pytest.param([ROLE], {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, id="a tool call"),
        pytest.param([], {"choices": [{"text": "", "finish_reason": None}]}, id="completions"),
    ],
)
def test_what_counts_as_the_first_token(before, first):
    answer = read(streamed(*before, first, token(), DONE))
    assert answer.first_token == 2.0 + len(before)
    assert answer.num_token_events == 2
    assert answer.error is None


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
def test_the_same_however_the_bytes_arrive(size):
    whole = b"".join(streamed(COMMENT, ROLE, *[token(f" {n}") for n in range(40)], BARE_END, USAGE, DONE))
    answer = read([whole[start : start + size] for start in range(0, len(whole), size)])
    assert answer.error is None
    assert answer.num_token_events == 40
    assert answer.usage["completion_tokens"] == 9


def test_several_events_in_one_piece_are_counted():
    answer = read(streamed(b"".join(map(event, [ROLE, token(), token(), token()])), event(token()) + DONE))
    assert (answer.num_token_events, answer.first_token, answer.error) == (4, 2.0, None)


def test_carriage_returns():
    body = b"".join(map(event, [ROLE, token(), token()])) + DONE
    answer = read(streamed(body.replace(b"\n", b"\r\n")))
    assert (answer.num_token_events, answer.error) == (2, None)


@pytest.mark.parametrize(
    ("pieces", "kind", "detail"),
    [
        pytest.param(streamed(ROLE, token(), ERROR, DONE), "stream error 500", "engine is dead", id="in a stream"),
        pytest.param(streamed(ERROR, DONE), "stream error 500", "engine is dead", id="error as first event"),
        pytest.param(streamed(ROLE, token()), "truncated", "the stream ended without [DONE]", id="no [DONE]"),
        pytest.param(streamed(ROLE, DONE), "no token", "the stream had no token", id="no token"),
        pytest.param(streamed(ROLE, token())[:-1], "connection lost", "closed by the server before", id="cut"),
        pytest.param([HEAD[:30]], "connection lost", "closed by the server before", id="cut in the head"),
        pytest.param([], "connection lost", "closed by the server before", id="nothing at all"),
        pytest.param([b"SSH-2.0-OpenSSH\r\n"], "bad response", "", id="not HTTP"),
        pytest.param(plain(503, b'{"error":{"message":"queue is full"}}'), "http 503", "queue is full", id="503"),
        pytest.param(plain(401, b'{"error":"Unauthorized"}'), "http 401", "Unauthorized", id="401"),
        pytest.param(plain(404, b'{"detail":"Not Found"}'), "http 404", '{"detail"', id="404"),
        pytest.param(plain(502, b"bad gateway"), "http 502", "bad gateway", id="502 in plain text"),
        pytest.param([b"HTTP/1.1 302 X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"], "http 302", "", id="redirect"),
    ],
)  # fmt: skip
def test_failures(pieces, kind, detail):
    answer = read(pieces)
    assert answer.error == kind
    assert (answer.detail or "").startswith(detail)


def test_a_long_error_is_cut():
    assert read(plain(500, b"x" * 5000)).detail == "x" * 200


def test_a_whole_answer():
    body = orjson.dumps({"choices": [{"message": {"content": "hi"}}], "usage": USAGE["usage"]})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = read([head, body])
    assert (answer.error, answer.first_token, answer.end) == (None, None, 2.0)
    assert answer.usage["completion_tokens"] == 9


def test_an_answer_ended_by_closing():
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    assert read([head, event(token()), DONE]).error is None
    assert read([head, event(token())]).error == "truncated"


def test_text_that_looks_like_an_error_is_none():
    answer = read(streamed(ROLE, token('{"error": "x"}\ndata: [DONE]\n\n'), token("data: {}"), DONE))
    assert (answer.error, answer.num_token_events) == (None, 2)
