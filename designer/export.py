"""Writes the requests of a scenario as a trace, so that a load generator sends what the simulator would.

A trace says less than a workload: what is shared is whole blocks of 512 tokens, everything is streamed, and every turn
of a session has a fixed time. So shared prefixes are cut to whole blocks, and a later turn is sent when it would be
under ``TURNS_UNDER`` on the same workers. ``as_traced`` is the scenario that the trace is, to be simulated beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from designer.simulator.draws import Ints
from designer.simulator.requests import priorities, ttft_slos
from designer.simulator.results import OUTCOMES
from designer.simulator.scenario import Scenario, ScenarioError, TraceWorkload
from designer.simulator.trace import BLOCK_TOKENS
from designer.simulator.workload import PS_PER_SECOND, Chunks, RequestColumns, draw_workload
from designer.simulator.world import simulate

PS_PER_MILLISECOND = PS_PER_SECOND // 1000
BYTES_PER_TOKEN = 4
"""Of a prompt as the load generator writes it ..."""
ROLE_BYTES = len("user")
"""... in a message of a user."""
TURNS_UNDER = "least_loaded"
"""The policy whose answers the later turns of sessions follow."""


def write_trace(scenario: Scenario, seed: int, path: Path, first_seconds: float | None = None) -> int:
    """Draws ``scenario`` under ``seed`` and writes it to ``path`` as JSONL; the number of requests.

    Args:
        first_seconds: only what arrives before; None: everything.

    Raises:
        ScenarioError: nothing is left to be written.
    """
    columns = draw_workload(scenario, seed)
    arrivals = columns.arrival_ps if columns.turn_after is None else _turn_times(scenario, columns, seed)
    end = np.inf if first_seconds is None else first_seconds * PS_PER_SECOND
    rows = [row for row in np.argsort(arrivals, kind="stable").tolist() if 0 <= arrivals[row] < end]
    if not rows:
        raise ScenarioError(f"scenario {scenario.name}, seed {seed}: no request arrives in the time asked for")
    with path.open("wb") as file:
        file.writelines(orjson.dumps(record) + b"\n" for record in trace_records(columns, arrivals, rows, seed))
    return len(rows)


def _turn_times(scenario: Scenario, columns: RequestColumns, seed: int) -> Ints:
    """When each is sent under ``TURNS_UNDER``; -1: never, as its session had ended."""
    result = simulate(scenario, TURNS_UNDER, seed, workload=columns)
    sent = result.outcome != OUTCOMES.index("abandoned")
    return np.where(sent, np.rint(result.arrival * PS_PER_SECOND), -1).astype(np.int64)


def trace_records(columns: RequestColumns, arrivals: Ints, rows: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """One record for each of ``rows``; ``request_id`` is the place in the trace, unique over seeds."""
    blocks = _Blocks()
    all_priorities, slos = priorities(columns), ttft_slos(columns)
    for place, i in enumerate(rows):
        slo = slos[i]
        optional = {
            "max_tokens": int(columns.max_tokens[i]),
            "tenant": columns.tenants[int(columns.tenant[i])].name if len(columns.tenants) > 1 else "",
            "session_id": columns.session_ids[i] if columns.session_ids else "",
            "model": columns.models[i] if columns.models else "",
            "priority": all_priorities[i],
            "ttft_slo_ms": 0.0 if slo is None else slo * 1000.0,
            "hash_ids": blocks.ids(columns.prefix_chunks[i]) if columns.prefix_chunks else [],
        }
        yield {
            "timestamp": int(arrivals[i]) / PS_PER_MILLISECOND,
            "input_length": int(columns.num_prompt_tokens[i]),
            "output_length": int(columns.num_output_tokens[i]),
            "request_id": f"s{seed}-{place}",
        } | {name: value for name, value in optional.items() if value}


class _Blocks:
    """Small numbers for the whole blocks of prefixes, in the order in which they are first met."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def ids(self, chunks: Chunks) -> list[int]:
        """Of each whole block that the chunks cover: the key at its end stands for all before it."""
        ends = {tokens: key for key, tokens in chunks}
        keys: list[int] = []
        while (key := ends.get((len(keys) + 1) * BLOCK_TOKENS)) is not None:
            keys.append(key)
        return [self._numbers.setdefault(key, len(self._numbers)) for key in keys]


def as_sent(columns: RequestColumns) -> RequestColumns:
    """With the bytes that the load generator sends of each prompt as a chat, and a gateway counts."""
    return replace(columns, num_prompt_bytes=columns.num_prompt_tokens * BYTES_PER_TOKEN + ROLE_BYTES)


def as_traced(scenario: Scenario, trace: Path) -> Scenario:
    """The scenario with what a written trace says in place of its own workload."""
    return scenario.model_copy(update={"workload": TraceWorkload(kind="trace", path=str(trace.resolve()))})
