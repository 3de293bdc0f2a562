from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.trace import TraceError, TraceRequest, encode, parse_line, read_trace, write_trace

GOOD = b'{"timestamp": 0, "input_length": 5, "output_length": 2}\n'

texts = st.none() | st.text(min_size=1, max_size=20).filter(str.isprintable)
requests = st.builds(
    TraceRequest,
    timestamp=st.floats(0, 1e9),
    input_length=st.integers(1, 10**6),
    output_length=st.integers(1, 10**6),
    hash_ids=st.none() | st.lists(st.integers(0, 2**60), max_size=5).map(tuple),
    model=texts,
    tenant=texts,
    session_id=texts,
    priority=st.none() | st.integers(-9, 9),
    max_tokens=st.none() | st.integers(1, 10**6),
    ttft_slo_ms=st.none() | st.floats(0, 1e6),
    request_id=texts,
)


@given(requests)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_what_is_read(request):
    assert parse_line(encode(request), "x:1") == request


def test_files_plain_and_compressed(tmp_path):
    written = [TraceRequest(0, 5, 2), TraceRequest(1.5, 6, 1, hash_ids=(7,), model="m")]
    for name in ("trace.jsonl", "trace.jsonl.gz"):
        assert write_trace(tmp_path / name, written) == 2
        assert list(read_trace(tmp_path / name)) == written
    assert (tmp_path / "trace.jsonl").read_bytes() == (
        b'{"timestamp":0,"input_length":5,"output_length":2}\n'
        b'{"timestamp":1.5,"input_length":6,"output_length":1,"hash_ids":[7],"model":"m"}\n'
    )
    assert (tmp_path / "trace.jsonl.gz").read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not JSON"),
        (b"# comment", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"timestamp": 0, "input_length": 5}', "output_length: missing; a line looks like"),
        (b'{"input_length": 5, "output_length": 5}', "timestamp: missing"),
        (b'{"timestamp": -1, "input_length": 5, "output_length": 5}', "timestamp: must be milliseconds, a number"),
        (b'{"timestamp": true, "input_length": 5, "output_length": 5}', "timestamp: must be"),
        (b'{"timestamp": "0", "input_length": 5, "output_length": 5}', "timestamp: must be"),
        (b'{"timestamp": 0, "input_length": 0, "output_length": 5}', "input_length: must be tokens, a whole number"),
        (b'{"timestamp": 0, "input_length": 5.5, "output_length": 5}', "input_length: must be"),
        (b'{"timestamp": 0, "input_length": 5, "output_length": 0}', "output_length: must be"),
        (GOOD[:-2] + b', "hash_ids": 3}', "hash_ids: must be a list of whole numbers, not 3"),
        (GOOD[:-2] + b', "hash_ids": ["a"]}', "hash_ids: must be"),
        (GOOD[:-2] + b', "max_tokens": 0}', "max_tokens: must be"),
        (GOOD[:-2] + b', "model": ""}', "model: must be printable text"),
        (GOOD[:-2] + b', "tenant": "a\\r\\nx-evil: 1"}', "tenant: must be printable text"),
        (GOOD[:-2] + b', "priority": 1.5}', "priority: must be a whole number"),
        (GOOD[:-2] + b', "inputs": 1}', "inputs: unknown field; the fields are timestamp, input_length"),
        (b'{"timestamp": -5, "input_length": 5, "output_length": 5}', "timestamp: must be"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path, line, says):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    with pytest.raises(TraceError, match=r"^[^\n]*$") as caught:
        list(read_trace(path))
    assert str(caught.value).startswith(f"{path}:2: {says}")


def test_lines_before_a_bad_one_are_read(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(GOOD + b"oops\n")
    reading = read_trace(path)
    assert next(reading).input_length == 5
    with pytest.raises(TraceError, match=":2: not JSON"):
        next(reading)


def test_time_does_not_go_backwards(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, [TraceRequest(5, 1, 1), TraceRequest(4, 1, 1)])
    with pytest.raises(TraceError, match=":2: timestamp: 4 is before the line above; sort it"):
        list(read_trace(path))


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(GOOD * 1000)[:60])
    for name, says in [("none", "No such file"), ("empty", "empty; a trace has"), ("cut.gz", "cannot be read")]:
        with pytest.raises(TraceError, match=says) as caught:
            list(read_trace(tmp_path / name))
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(TraceError, match="cannot be written: Is a directory"):
        write_trace(tmp_path, [])
