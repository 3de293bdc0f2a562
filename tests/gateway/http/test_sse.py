"""What is read of an event stream, and of usage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.sse import NO_USAGE, Usage, event_end, event_mark, read_events, read_usage

ROLE = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'


@pytest.mark.parametrize(
    ("payload", "kind", "status"),
    [
        (ROLE, "other", 0),
        (b'{"choices":[{"delta":{"content":"x"}}]}', "token", 0),
        (b'{"choices":[{"delta":{"reasoning_content":"x"}}]}', "token", 0),
        (b'{"choices":[{"delta":{"tool_calls":[{}]}}]}', "token", 0),
        (b'{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}', "token", 0),
        (b'{"choices":[{"delta":{}}]}', "other", 0),
        (b'{"choices":[{"text":""}]}', "token", 0),
        (b'{"choices":[],"usage":{"completion_tokens":3}}', "other", 0),
        (b'{"type":"response.created"}', "other", 0),
        (b'{"type":"response.output_text.delta","delta":"x"}', "token", 0),
        (b'{"type":"message_start"}', "other", 0),
        (b'{"type":"content_block_delta"}', "token", 0),
        (b'{"error":{"code":503}}', "error", 503),
        (b'{"error":{"message":"no code"}}', "error", 500),
        (b'{"error":{"code":"rate_limit"}}', "error", 500),
        (b'{"error":{"code":400}}', "error", 400),
        (b'{"error":"Unauthorized"}', "error", 500),
        (b'{"type":"error","error":{"type":"overloaded"}}', "error", 500),
        (b'{"error":null,"choices":[{"text":"x"}]}', "token", 0),
        (b"[DONE]", "other", 0),
        (b"not json", "token", 0),
        (b"[1]", "token", 0),
        (b'{"text":"x"}', "token", 0),
    ],
)
def test_kinds_of_events(payload: bytes, kind: str, status: int) -> None:
    (event,), _ = read_events(b"data: " + payload + b"\n\n")
    assert (event.kind, event.status, event.payload) == (kind, status, payload)


STREAM = (
    b'1a\r\n: keep-alive\n\n\r\nff\r\nevent: x\ndata: {"choices":[{"text":"a data: b"}]}\n\n\r\n'
    b"5\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


def test_events_are_found_between_chunk_sizes_and_comments() -> None:
    events, at = read_events(STREAM)
    assert [event.payload for event in events] == [b'{"choices":[{"text":"a data: b"}]}', b"[DONE]"]
    assert STREAM[events[0].start :].startswith(b"data: {")
    assert at > events[-1].start


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=6))
@settings(max_examples=100, deadline=None)
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    found, data, at = [], b"", 0
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(STREAM)], strict=True):
        data += STREAM[start:end]
        events, at = read_events(data, at)
        found += events
    assert found == read_events(STREAM)[0]


@pytest.mark.parametrize(
    ("data", "chunked", "end"),
    [
        (b"data: {}\n\n\r\n", True, b"\n\n\r\n"),
        (b"data: {}\n", True, b"\n\n\r\n"),
        (b"data: {}\n\ndata: {}\n\n", False, b"\n\n"),
        (b"data: {}\r\n\r\n\r\n", True, b"\r\n\r\n\r\n"),
        (b"data: {}\n\r\n1\r\n\n\r\n", True, b""),
        (b"data: {}\nid: 3\n\n", False, b""),
    ],
)
def test_how_a_worker_ends_its_events(data: bytes, chunked: bool, end: bytes) -> None:
    assert event_end(data, read_events(data)[0][0], chunked=chunked) == end


@pytest.mark.parametrize(
    ("data", "mark"), [(b"data: {}\n", b"\ndata: {"), (b"data:{}\n", b"\ndata:{"), (b"data: x\n", b"\ndata:")]
)
def test_what_tokens_are_counted_by(data: bytes, mark: bytes) -> None:
    assert event_mark(data, read_events(data)[0][0]) == mark


@pytest.mark.parametrize(
    ("data", "usage"),
    [
        (
            b'{"usage":{"prompt_tokens":16,"total_tokens":24,"completion_tokens":8,"prompt_tokens_details":null}}',
            Usage(8, 16, None),
        ),
        (b'{"usage": {"completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}}}', Usage(8, None, 4)),
        (b'{"usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":2}}', Usage(5, 3, 2)),
        (
            b'data: {"usage":{"completion_tokens":1}}\n\ndata: {"usage":{"completion_tokens":2}}\n\n',
            Usage(2, None, None),
        ),
        (b'{"usage":{"completion_tokens":99999999999999999999999999}}', Usage(999_999_999_999, None, None)),
        (b'{"usage":null}', NO_USAGE),
        (b'{"content":"\\"usage\\":{\\"completion_tokens\\":9}"}', NO_USAGE),
        (b'{"usage":{"completion_to', NO_USAGE),
        (b"", NO_USAGE),
    ],
)
def test_usage(data: bytes, usage: Usage) -> None:
    assert read_usage(data) == usage
