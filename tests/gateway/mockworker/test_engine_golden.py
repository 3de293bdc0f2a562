"""The engine decides as vLLM's own scheduler did, step by step (recorded by ``tests.support.record_vllm``)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.mockworker.engine import Engine, EngineConfig, EngineRequest
from gateway.mockworker.profile import WorkerProfile
from tests.support.record_vllm import chunk_key
from tests.support.reference_engine import ReferenceEngine

GOLDEN = Path(__file__).parent / "golden" / "vllm-0.32.json.gz"
FOREVER = 10**15


@cache
def golden() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    return whole


class Recording(ReferenceEngine):
    """Notes every schedule as the recorder does."""

    def __init__(self, *arguments: Any) -> None:
        self.steps: list[list[Any]] = []
        self._preempted: list[int] = []
        super().__init__(*arguments)

    def _preempt(self, victim: Any, now: int) -> None:
        self._preempted.append(int(victim.spec.request_id[1:]))
        super()._preempt(victim, now)

    def _schedule(self, start: int) -> Any:
        self._preempted = []
        step = super()._schedule(start)
        if step.scheduled or self._preempted:
            shares = sorted([int(r.spec.request_id[1:]), tokens] for r, tokens in step.scheduled.items())
            self.steps.append([start, shares, sorted(self._preempted), self.num_free_blocks, self.num_prefix_hits])
        return step


def workload(case: dict[str, Any]) -> list[tuple[int, EngineRequest]]:
    chunk = golden()["chunk"]
    return [
        (
            arrival,
            EngineRequest(
                f"r{index:02d}",
                prompt,
                output,
                priority,
                tuple((chunk_key(path[:depth]), depth * chunk) for depth in range(1, len(path) + 1)),
            ),
        )
        for index, (arrival, prompt, output, priority, path) in enumerate(case["requests"])
    ]


def settings_of(case: dict[str, Any]) -> tuple[EngineConfig, WorkerProfile]:
    config = EngineConfig(block_size=golden()["block_size"], **case["config"])
    return config, WorkerProfile("golden", "", config, fixed_ps=golden()["step_ps"], token_ps=golden()["token_ps"])


def test_the_recording_is_hard_enough() -> None:
    cases = golden()["cases"]
    assert len(cases) >= 100
    preempting = [case for case in cases if any(step[2] for step in case["steps"])]
    assert len(preempting) >= len(cases) // 2
    assert sum(case["steps"][-1][4] > 0 for case in cases) >= len(cases) // 4


@pytest.mark.parametrize("number", range(120))
def test_every_step_is_vllm_s(number: int) -> None:
    case = golden()["cases"][number]
    config, profile = settings_of(case)
    step_by_step = Recording(config, profile)
    engine = Engine(config, profile)
    for arrival, request in workload(case):
        step_by_step.add(request, arrival)
        engine.add(request, arrival)
    expected = step_by_step.advance(FOREVER)
    assert step_by_step.steps == case["steps"]
    runs = engine.advance(FOREVER)
    assert [s for run in runs for s in run.stats] == [s for run in expected for s in run.stats]
    assert engine.num_prefix_hits == case["steps"][-1][4]
    assert engine.num_preemptions == sum(len(step[2]) for step in case["steps"])
