"""The reference that knows the lengths: better for it, and out of any gateway's reach."""

from __future__ import annotations

from pathlib import Path

import pytest

import designer.simulator.clairvoyant as module
from designer.simulator.clairvoyant import _fits, clairvoyant_policies
from designer.simulator.workload import draw_workload
from designer.simulator.world import simulate
from policies.contract import Worker
from policies.loader import PolicyLoadError, load_policies, parse_specs
from tests.support.contended_scenario import contended_scenario


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_beats_what_does_not_know(seed: int) -> None:
    scenario = contended_scenario(workload={"num_requests": 300})
    result = simulate(scenario, clairvoyant_policies(draw_workload(scenario, seed)), seed)
    assert result.completed.all()
    assert result.counters["num_policy_failures"] == 0
    for policy in ("least_loaded", "expert"):
        assert result.mean_response_time < simulate(scenario, policy, seed).mean_response_time


def test_it_loses_next_to_no_kv() -> None:
    scenario = contended_scenario(workload={"num_requests": 300})
    result = simulate(scenario, clairvoyant_policies(draw_workload(scenario, 1)), 1)
    assert result.preemptions.sum() <= 0.1 * simulate(scenario, "least_loaded", 1).preemptions.sum()


@pytest.mark.parametrize(
    ("requests", "fits"),
    [
        ([(100, 1000)], True),  # alone it may try, as on any worker
        ([(40, 10), (30, 12)], True),  # 90 and 16 when the first ends, 42 and 8 after that
        ([(40, 10), (31, 30)], True),  # 91 and 16, then 61 and 8
        ([(40, 30), (31, 30)], False),  # 131 and 16
        ([(1, 1), (1, 1), (1, 1), (1, 1)], False),  # one seat too few
    ],
)
def test_what_fits(requests: list[tuple[int, int]], fits: bool) -> None:
    worker = Worker("w", kv_capacity_tokens=128, block_size=16, max_num_seqs=3)
    assert _fits(requests, worker) is fits
    assert _fits(requests, Worker("w"))


def test_no_gateway_can_load_it() -> None:
    assert module.__file__ is not None
    for text in ("clairvoyant", str(Path(module.__file__))):
        with pytest.raises(PolicyLoadError):
            load_policies(parse_specs(text), seed=0)
