from __future__ import annotations

import gzip

import pytest

from loadgen.convert import convert, cut
from loadgen.trace import TraceError, TraceRequest, write_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:50.9951690,879,0
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""
BURSTGPT = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,s1,1.5,ChatGPT,472,18,490,Conversation log
45,,2.5,GPT-4,1087,0,1087,API log
118.25,,2.5,GPT-4,417,276,693,API log
"""


def converted(tmp_path, text: str, source="auto", name="trace.csv") -> list[TraceRequest]:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return list(convert(path, source))


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
@pytest.mark.parametrize("source", ["auto", "azure"])
def test_azure_2023(tmp_path, name, source):
    assert converted(tmp_path, AZURE, source, name) == [
        TraceRequest(0.0, 374, 44),
        TraceRequest(4314.579, 396, 109),
        TraceRequest(4314.579, 879, 1),
    ]


def test_azure_2024(tmp_path):
    assert converted(tmp_path, AZURE_2024) == [TraceRequest(0.0, 2162, 5), TraceRequest(7.405, 2399, 6)]


def test_a_byte_order_mark_and_rows_out_of_order(tmp_path):
    lines = AZURE.splitlines()
    text = "\ufeff" + "\n".join([lines[0], lines[2], lines[1]])
    assert [request.input_length for request in converted(tmp_path, text)] == [374, 396]


def test_burstgpt_leaves_out_what_failed(tmp_path):
    assert converted(tmp_path, BURSTGPT) == [
        TraceRequest(0.0, 472, 18, model="ChatGPT", session_id="s1"),
        TraceRequest(113_250.0, 417, 276, model="GPT-4"),
    ]


def test_mooncake_is_the_format_itself(tmp_path):
    requests = [TraceRequest(0, 6758, 500, hash_ids=(0, 1)), TraceRequest(7, 1, 1, hash_ids=(0,))]
    write_trace(tmp_path / "m.jsonl.gz", requests)
    assert list(convert(tmp_path / "m.jsonl.gz")) == list(convert(tmp_path / "m.jsonl.gz", "mooncake")) == requests


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AZURE.replace("396", "x"), ":3: ContextTokens: must be a whole number of at least 1, not 'x'"),
        (AZURE.replace("374", "0"), ":2: ContextTokens: must be a whole number of at least 1, not '0'"),
        (AZURE.replace(",109", ""), ":3: GeneratedTokens: must be a whole number of at least 0, not None"),
        (AZURE.replace("2023-11-16 18:15:46.6805900", "noon"), ":2: TIMESTAMP: not a time like 2023-11-16 18:15:46"),
        (BURSTGPT.replace("118.25", "later"), ":4: Timestamp: not a number of seconds: 'later'"),
        ("a,b,c\n1,2,3\n", ":1: not any known format; known are JSON lines, CSV with TIMESTAMP, ContextTokens"),
        ("", ":1: not any known format"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, says):
    with pytest.raises(TraceError) as caught:
        converted(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'trace.csv'}{says}")


def test_a_format_that_is_not_the_files(tmp_path):
    with pytest.raises(TraceError, match="not the burstgpt format"):
        converted(tmp_path, AZURE, "burstgpt")


def test_cut():
    requests = [TraceRequest(1000.0 * second, 1, 1) for second in range(10)]
    assert len(list(cut(iter(requests), 3.0, None))) == 3
    assert len(list(cut(iter(requests), None, 4))) == 4
    assert len(list(cut(iter(requests), 3.0, 2))) == 2
    assert len(list(cut(iter(requests), None, None))) == 10
