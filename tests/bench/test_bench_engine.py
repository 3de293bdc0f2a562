"""The benchmark's workload is what it says, and its run is a whole run. Speed itself is not asserted."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median

from tests.bench.bench_engine import look_alike, read_trace, run


def test_the_look_alike_has_the_trace_s_sizes() -> None:
    workload = look_alike(4000)
    prompts = [request.num_prompt_tokens for _, request in workload]
    outputs = [request.num_output_tokens for _, request in workload]
    assert 1050 < mean(prompts) < 1250
    assert 950 < median(prompts) < 1100
    assert 180 < mean(outputs) < 230
    assert 115 < median(outputs) < 145


def test_every_request_is_run_to_its_end() -> None:
    workload = look_alike(300)
    _, finished, tokens = run(workload)
    assert finished == 300
    assert tokens == sum(request.num_output_tokens for _, request in workload)


def test_a_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({"timestamp": 1000, "input_length": 5, "output_length": 2}) + "\n")
    ((arrival, request),) = read_trace(path, 0.25, 8)
    assert (arrival, request.num_prompt_tokens, request.num_output_tokens) == (250_000_000_000, 5, 16)
