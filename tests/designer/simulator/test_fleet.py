"""Workers from profiles: what a scenario may change, and what it is told when it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import ScenarioError, load_scenario
from gateway.mockworker.profile import ProfileError, load_profile
from tests.support.contended_scenario import PROFILE, contended_scenario


def plans(*workers: dict[str, Any]) -> Any:
    return plan_workers(contended_scenario(workers=list(workers)))


def test_workers_are_named_by_profile_and_place() -> None:
    made = plans({"profile": "a10-llama3-8b", "count": 2}, {"profile": "l40s-llama3-8b", "variant": "big"})
    assert [plan.worker_id for plan in made] == ["a10-llama3-8b-0", "a10-llama3-8b-1", "l40s-llama3-8b-2"]
    assert [plan.variant for plan in made] == ["default", "default", "big"]


def test_overrides_and_time_scale() -> None:
    (plan,) = plans({"profile": "a10-llama3-8b", "time_scale": 2.0, "engine": {"num_gpu_blocks": 7, "watermark": 0.5}})
    original = load_profile("a10-llama3-8b")
    assert (plan.config.num_gpu_blocks, plan.config.watermark) == (7, 0.5)
    assert plan.config.max_num_seqs == original.engine.max_num_seqs
    assert plan.profile.token_ps == 2 * original.token_ps
    assert plan.profile.host_request_ps == 2 * original.host_request_ps
    assert plan.sizes().kv_capacity_tokens == 7 * plan.config.block_size


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"num_gpu_block": 7}, r"workers\[0\].engine.num_gpu_block: unknown key \(known: num_gpu_blocks"),
        ({"num_gpu_blocks": "7"}, r"workers\[0\].engine.num_gpu_blocks: must be a whole number, not '7'"),
        ({"enable_prefix_caching": 1}, r"workers\[0\].engine.enable_prefix_caching: must be true or false"),
        ({"num_gpu_blocks": True}, r"workers\[0\].engine.num_gpu_blocks: must be a whole number"),
        ({"num_gpu_blocks": 0}, r"workers\[0\].engine: num_gpu_blocks must be at least 1"),
    ],
)
def test_a_wrong_override_is_named(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        plans({"profile": "a10-llama3-8b", "engine": engine})


def test_an_unknown_profile() -> None:
    with pytest.raises(ProfileError, match="z80"):
        plans({"profile": "z80"})


def test_a_profile_may_lie_beside_its_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PROFILE)
    (tmp_path / "scenario.toml").write_text(
        'name = "s"\n[workload]\nkind = "synthetic"\nnum_requests = 1\narrivals = { rate = 1.0 }\n'
        "prompt_tokens = { median = 1.0 }\noutput_tokens = { median = 1.0 }\n"
        '[[workers]]\nprofile = "./mine.toml"\n'
    )
    (plan,) = plan_workers(load_scenario(tmp_path / "scenario.toml"))
    assert plan.profile.fixed_ps == 10 * 10**9
