from __future__ import annotations

import pytest

from loadgen.records import Record, RecordError, encode, read_records

RECORD = Record(
    request_id="r",
    intended=0.5,
    sent=0.501,
    end=2.0,
    first_token=0.75,
    input_length=100,
    output_length=20,
    max_tokens=None,
    num_prompt_tokens=101,
    num_output_tokens=20,
    num_cached_tokens=None,
    max_gap=0.1,
    status=200,
    error=None,
    detail=None,
    worker="w0",
)


def test_what_is_written_is_what_is_read(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(encode(RECORD) * 3)
    assert list(read_records(tmp_path / "r.jsonl")) == [RECORD] * 3


def test_fields_of_a_later_version_are_let_be(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(encode(RECORD).replace(b'"status"', b'"new":1,"status"'))
    assert list(read_records(tmp_path / "r.jsonl")) == [RECORD]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", ": empty; no request was recorded"),
        (encode(RECORD) + b"{}\n", ":2: not a record of loadgen: missing 16 required"),
        (b"[]\n", ":1: not a record of loadgen: not a JSON object"),
        (encode(RECORD) + b"oops\n", ":2: not a record of loadgen: "),
    ],
)
def test_bad_files(tmp_path, text, says):
    path = tmp_path / "r.jsonl"
    path.write_bytes(text)
    with pytest.raises(RecordError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(f"{path}{says}")


def test_no_file(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        list(read_records(tmp_path / "none"))
