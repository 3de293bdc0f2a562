"""Traces: every field, and the words for every bad line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from designer.simulator.trace import TraceError, read_trace

GOOD = {"timestamp": 1500, "input_length": 1100, "output_length": 7}


def write(tmp_path: Path, *records: dict[str, Any] | str) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_columns_in_order_of_time(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, GOOD, GOOD | {"timestamp": 0.5, "input_length": 3, "max_tokens": 5}))
    assert trace.seconds.tolist() == [0.0005, 1.5]
    assert trace.num_prompt_tokens.tolist() == [3, 1100]
    assert trace.max_tokens.tolist() == [5, 0]
    assert trace.tenants == ("default",)
    assert trace.prefix_chunks == ()
    assert trace.models == ()


def test_optional_fields(tmp_path: Path) -> None:
    extra = {"tenant": "b", "model": "m", "session_id": "s", "priority": 2, "ttft_slo_ms": 250, "request_id": "r"}
    trace = read_trace(write(tmp_path, GOOD | extra, GOOD | {"tenant": "a"}, GOOD | {"session_id": None}))
    assert [trace.tenants[index] for index in trace.tenant] == ["b", "a", "default"]
    assert trace.models == ("m", "", "")
    assert trace.session_ids == ("s", None, None)
    assert trace.priorities.tolist() == [2, 0, 0]
    assert trace.ttft_slos[0] == 0.25
    assert np.isnan(trace.ttft_slos[1])


def test_hash_ids_are_whole_blocks_shared_by_id(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, GOOD | {"hash_ids": [4, 5, 6]}, GOOD | {"hash_ids": [4, 9, 10]}))
    one, other = trace.prefix_chunks
    assert [tokens for _, tokens in one] == [512, 1024]
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_block_is_the_same_only_behind_the_same_blocks(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, GOOD | {"hash_ids": [4, 5]}, GOOD | {"hash_ids": [6, 5]}))
    one, other = trace.prefix_chunks
    assert one[1] != other[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "trace.jsonl:2: not valid JSON"),
        ("", "trace.jsonl:2: not valid JSON"),
        ("[1]", "trace.jsonl:2: not a JSON object"),
        (json.dumps({"timestamp": 1, "input_length": 5}), "trace.jsonl:2: output_length: missing"),
        (json.dumps(GOOD | {"input_length": 0}), "trace.jsonl:2: input_length: must be a whole number"),
        (json.dumps(GOOD | {"input_length": 2.5}), "trace.jsonl:2: input_length: must be"),
        (json.dumps(GOOD | {"timestamp": -1}), "trace.jsonl:2: timestamp: must be a number"),
        (json.dumps(GOOD | {"timestamp": True}), "trace.jsonl:2: timestamp: must be a number"),
        (json.dumps(GOOD | {"hash_ids": ["a"]}), "trace.jsonl:2: hash_ids: must be a list"),
        (json.dumps(GOOD | {"tenant": 3}), "trace.jsonl:2: tenant: must be a text"),
        (json.dumps(GOOD | {"prompt": "hi"}), "trace.jsonl:2: prompt: unknown field"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(write(tmp_path, GOOD, line))
    assert message in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(TraceError, match="empty"):
        read_trace(write(tmp_path))
