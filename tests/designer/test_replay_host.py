"""Where a replay runs candidates: in the sandbox, and in cages that reach their workers and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.export import as_sent, as_traced, write_trace
from designer.fidelity import HERE
from designer.replay_host import WinnerSandbox, hosting, reachable
from designer.sandbox import SandboxError
from designer.simulator.workload import draw_workload
from designer.subject import subject_of_source, subject_of_specs
from tests.support.small_scenario import small_scenario

REVEALS = '''"""Keeps what it sees of its process."""

import math


class Policy:
    def route(self, request, candidates, pool):
        return min(candidates, key=lambda c: c.worker.num_inflight_requests)


def create(rng):
    return Policy()
'''


def test_names_become_numbers() -> None:
    assert reachable(["http://127.0.0.1:8000", "http://localhost:81/x"]) == (
        "http://127.0.0.1:8000",
        "http://127.0.0.1:81/x",
    )
    assert reachable(["https://127.0.0.1"]) == ("https://127.0.0.1",)
    for url, why in (
        ("https://localhost", "certificate"),
        ("127.0.0.1:8000", "http://HOST:PORT"),
        ("http://no.such.name.invalid", "--worker http://no.such.name.invalid"),
    ):
        with pytest.raises(ValueError, match=why):
            reachable([url])


def test_a_candidate_is_simulated_in_the_sandbox_and_gives_what_it_gives_here(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(small_scenario(30), 5, trace)
    scenario = as_traced(small_scenario(30), trace)
    columns = as_sent(draw_workload(scenario, 5))
    path = tmp_path / "policy.py"
    path.write_text(REVEALS)
    candidate, known = subject_of_source(REVEALS, "candidate"), subject_of_specs("least_loaded")
    host = hosting({str(path): candidate, "least_loaded": known}, cpu_seconds=60)
    assert host.simulated(scenario, str(path), 5, columns) == HERE.simulated(scenario, str(path), 5, columns)
    assert host.simulated(scenario, "least_loaded", 5, columns) == HERE.simulated(scenario, "least_loaded", 5, columns)
    assert not host.hears


def test_a_candidate_that_gives_nothing_is_an_error(tmp_path: Path) -> None:
    broken = subject_of_source("raise SystemExit\n", "broken")
    sandbox = WinnerSandbox(small_scenario(10), jobs=1, deadline_seconds=20.0)
    try:
        with pytest.raises(SandboxError, match="broken: the simulation gave nothing"):
            sandbox.swapped(broken, subject_of_specs("least_loaded"), 1, "winner", 0.0)
    finally:
        sandbox.close()
