"""A scenario written as a trace and read back is the same requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from designer.export import write_trace
from designer.simulator.scenario import ScenarioError, parse_scenario
from designer.simulator.trace import read_trace
from designer.simulator.workload import PS_PER_SECOND, draw_workload

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


def test_shared_prefixes_are_refused(tmp_path: Path) -> None:
    prefixes = {"groups": 2, "tokens": {"median": 300.0, "sigma": 0.1, "max": 400}}
    table = {**TABLE, "workload": {**TABLE["workload"], "prefixes": prefixes}}  # type: ignore[dict-item]
    with pytest.raises(ScenarioError, match="shared prefixes"):
        write_trace(parse_scenario(table, tmp_path), 3, tmp_path / "trace.jsonl")
