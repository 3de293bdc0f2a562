"""Writes the requests of a scenario as a trace, so that a load generator sends what the simulator would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from designer.simulator.scenario import Scenario, ScenarioError
from designer.simulator.workload import PS_PER_SECOND, RequestColumns, draw_workload

PS_PER_MILLISECOND = PS_PER_SECOND // 1000


def write_trace(scenario: Scenario, seed: int, path: Path) -> int:
    """Draws ``scenario`` under ``seed`` and writes it to ``path`` as JSONL; the number of requests.

    Raises:
        ScenarioError: the workload shares prefixes, which a trace's 512-token blocks cannot express.
    """
    columns = draw_workload(scenario, seed)
    if columns.prefix_chunks:
        raise ScenarioError(f"scenario {scenario.name}: a workload with shared prefixes cannot be written as a trace")
    with path.open("wb") as file:
        file.writelines(orjson.dumps(record) + b"\n" for record in trace_records(columns, seed))
    return len(columns)


def trace_records(columns: RequestColumns, seed: int) -> Iterator[dict[str, Any]]:
    """One record a request; ``request_id`` is unique over seeds."""
    for i in range(len(columns)):
        record: dict[str, Any] = {
            "timestamp": int(columns.arrival_ps[i]) / PS_PER_MILLISECOND,
            "input_length": int(columns.num_prompt_tokens[i]),
            "output_length": int(columns.num_output_tokens[i]),
            "request_id": f"s{seed}-{i}",
        }
        if columns.max_tokens[i]:
            record["max_tokens"] = int(columns.max_tokens[i])
        if len(columns.tenants) > 1:
            record["tenant"] = columns.tenants[int(columns.tenant[i])].name
        yield record
