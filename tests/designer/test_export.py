"""A scenario written as a trace and read back is the same requests."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from designer.export import as_sent, as_traced, write_trace
from designer.simulator.scenario import ScenarioError, parse_scenario
from designer.simulator.trace import read_trace
from designer.simulator.workload import PS_PER_SECOND, Chunks, draw_workload
from designer.simulator.world import simulate

TABLE = {
    "name": "export",
    "workload": {
        "kind": "synthetic",
        "num_requests": 50,
        "arrivals": {"process": "poisson", "rate": 5.0},
        "prompt_tokens": {"median": 30.0, "sigma": 1.0, "max": 500},
        "output_tokens": {"median": 20.0, "sigma": 1.0, "max": 100},
        "max_tokens": {"values": [200, 400], "unset_fraction": 0.5},
    },
    "workers": [{"profile": "a10-llama3-8b", "count": 1}],
}


def test_what_is_written_is_what_is_simulated(tmp_path: Path) -> None:
    scenario = parse_scenario(TABLE, tmp_path)
    path = tmp_path / "trace.jsonl"
    assert write_trace(scenario, 3, path) == 50
    trace, columns = read_trace(path), draw_workload(scenario, 3)
    assert np.allclose(trace.seconds, columns.arrival_ps / PS_PER_SECOND)
    assert trace.num_prompt_tokens.tolist() == columns.num_prompt_tokens.tolist()
    assert trace.num_output_tokens.tolist() == columns.num_output_tokens.tolist()
    assert trace.max_tokens.tolist() == columns.max_tokens.tolist()


def test_shared_prefixes_are_written_as_whole_blocks(tmp_path: Path) -> None:
    prefixes = {"groups": 2, "fraction": 0.9, "tokens": {"median": 1300.0, "sigma": 0.1, "max": 1500}}
    table = {**TABLE, "workload": {**TABLE["workload"], "prefixes": prefixes}}  # type: ignore[dict-item]
    scenario, path = parse_scenario(table, tmp_path), tmp_path / "trace.jsonl"
    assert write_trace(scenario, 3, path) == 50
    columns, chunks = draw_workload(scenario, 3), read_trace(path).prefix_chunks
    for i in range(50):
        assert [tokens for _, tokens in chunks[i]] == ([512, 1024] if columns.prefix_chunks[i] else [])
    for i, j in combinations(range(50), 2):
        assert shared(chunks[i], chunks[j]) == shared(columns.prefix_chunks[i], columns.prefix_chunks[j]) // 512 * 512


def shared(some: Chunks, other: Chunks) -> int:
    """Tokens that two prompts have in common from their start."""
    return max((a[1] for a, b in zip(some, other, strict=False) if a == b), default=0)


def test_turns_of_sessions_are_sent_when_the_answers_before_them_have_come(tmp_path: Path) -> None:
    sessions = {
        "turns": {"median": 3.0, "sigma": 0.3, "max": 5},
        "think_seconds": 2.0,
        "think_sigma": 0.5,
        "max_prompt_tokens": 4000,
    }
    table = {**TABLE, "workload": {**TABLE["workload"], "sessions": sessions}}  # type: ignore[dict-item]
    scenario, path = parse_scenario(table, tmp_path), tmp_path / "trace.jsonl"
    columns, count = draw_workload(scenario, 3), write_trace(scenario, 3, path)
    trace = read_trace(path)
    assert count == len(columns) > 50
    assert sorted(set(trace.session_ids)) == sorted(set(columns.session_ids))
    result = simulate(scenario, "least_loaded", 3, workload=columns)
    assert np.allclose(trace.seconds, np.sort(result.arrival))
    assert not np.allclose(trace.seconds, np.sort(columns.arrival_ps) / PS_PER_SECOND)
    again = simulate(as_traced(scenario, path), "least_loaded", 3)
    assert np.allclose(np.sort(again.arrival), trace.seconds)


def test_a_part_of_the_time_can_be_written(tmp_path: Path) -> None:
    scenario, path = parse_scenario(TABLE, tmp_path), tmp_path / "trace.jsonl"
    count = write_trace(scenario, 3, path, first_seconds=4.0)
    assert count == (draw_workload(scenario, 3).arrival_ps < 4 * PS_PER_SECOND).sum() < 50
    with pytest.raises(ScenarioError, match="no request arrives in the time asked for"):
        write_trace(scenario, 3, path, first_seconds=1e-6)


def test_bytes_are_those_of_a_chat(tmp_path: Path) -> None:
    columns = as_sent(draw_workload(parse_scenario(TABLE, tmp_path), 3))
    assert np.array_equal(columns.num_prompt_bytes, 4 * columns.num_prompt_tokens + len("user"))
