"""A gateway's event log beside a simulation of what it heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from designer.heard import Heard, HeardError, as_heard, differences, heard_by_gateway, heard_by_simulator
from designer.simulator.policies import PolicySource
from designer.simulator.workload import RequestColumns, draw_workload
from designer.simulator.world import simulate
from gateway.core.commands import Command
from gateway.core.event_log import encode, encode_gap
from gateway.core.events import Event, PolicySetReplaced, RequestArrived, RequestEnded, WorkerJoined, WorkerMetrics
from gateway.core.policy_set import PolicySet
from tests.support.contended_scenario import contended_scenario

SCENARIO = contended_scenario()
SWAP: Sequence[tuple[float, PolicySource]] = ((1.5, "head_room"),)


def write_log(folder: Path, swaps: Sequence[tuple[float, PolicySource]]) -> RequestColumns:
    """As a gateway would have written it that took the scenario's requests, in the simulator's own times."""
    lines = [b"{}"]

    def sink(event: Event, commands: Sequence[Command]) -> None:
        lines.append(orjson.dumps(encode(len(lines), event, commands, {}, ())))

    columns = draw_workload(SCENARIO, 1)
    simulate(SCENARIO, "least_loaded", 1, workload=columns, sink=sink, swaps=swaps)
    folder.mkdir()
    (folder / "events-1-000001.jsonl").write_bytes(b"\n".join([*lines, b""]))
    return columns


def test_what_was_heard_simulates_to_the_same_decisions_swap_included(tmp_path: Path) -> None:
    columns = write_log(tmp_path / "log", SWAP)
    gateway = heard_by_gateway(tmp_path / "log")
    heard = as_heard(gateway, columns, lambda request_id: int(request_id[1:]))
    assert np.array_equal(heard.arrival_ps, columns.arrival_ps)
    swaps: list[tuple[float, PolicySource]] = [(gateway.swaps[0], "head_room")]
    simulator, _ = heard_by_simulator(SCENARIO, "least_loaded", 1, heard, list(gateway.arrivals), swaps)
    told = differences(gateway, simulator)
    assert (told.num_requests, told.fields, told.same_worker, told.response_time) == (80, {}, 1.0, 0.0)
    cold, _ = heard_by_simulator(SCENARIO, "head_room", 1, heard, list(gateway.arrivals))
    assert differences(gateway, cold).same_worker < 1.0


def test_what_is_told_otherwise_is_counted_by_field(tmp_path: Path) -> None:
    columns = write_log(tmp_path / "log", ())
    gateway = heard_by_gateway(tmp_path / "log")
    other = replace(columns, num_prompt_bytes=columns.num_prompt_bytes + 4)
    simulator, _ = heard_by_simulator(SCENARIO, "least_loaded", 1, other, list(gateway.arrivals))
    simulator.workers[next(iter(simulator.workers))]["max_num_seqs"] = 1
    told = differences(gateway, simulator)
    assert told.fields == {"RequestArrived.num_prompt_bytes": 80, "WorkerJoined.max_num_seqs": 1}
    assert "told otherwise: RequestArrived.num_prompt_bytes (80), WorkerJoined" in str(told)


def test_an_id_that_comes_again_is_another_request() -> None:
    heard = Heard()
    heard.hear(WorkerJoined(0.0, "w", "default", metrics=WorkerMetrics(block_size=16)), ())
    for time in (1.0, 5.0):
        heard.hear(RequestArrived(time, "a", ""), [("a", "w")])
        heard.hear(RequestEnded(time + 2.0, "a", "completed", 3), ())
    assert list(heard.arrivals) == list(heard.ends) == list(heard.dispatches) == ["a", "a/2"]
    columns = draw_workload(SCENARIO, 1)
    twice = as_heard(heard, columns, lambda name: {"a": 7, "a/2": 7}[name])
    assert twice.num_prompt_tokens.tolist() == [columns.num_prompt_tokens[7]] * 2
    assert twice.arrival_ps.tolist() == [10**12, 5 * 10**12]


def test_the_set_that_a_gateway_starts_with_is_no_swap() -> None:
    heard = Heard()
    heard.hear(PolicySetReplaced(0.0, "default", PolicySet.builtin(1)), ())
    heard.hear(WorkerJoined(0.5, "w", "default"), ())
    heard.hear(PolicySetReplaced(3.0, "default", PolicySet.builtin(2)), ())
    assert heard.swaps == [3.0]
    assert heard.started == 0.5


def test_no_log_and_a_log_with_a_gap_are_errors(tmp_path: Path) -> None:
    with pytest.raises(HeardError, match="no event log with a request in it"):
        heard_by_gateway(tmp_path)
    (tmp_path / "events-1-000001.jsonl").write_bytes(b"{}\n" + orjson.dumps(encode_gap(9, 3)) + b"\n")
    with pytest.raises(HeardError, match="3 records were not kept"):
        heard_by_gateway(tmp_path)
