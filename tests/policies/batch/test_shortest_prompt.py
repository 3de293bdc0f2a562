from __future__ import annotations

import pytest

from policies.loader import PolicyLoadError
from policies.situations import EngineRequest, EngineView
from tests.support.policy_calls import load

ENGINE = EngineView(num_running=3, num_waiting=4, num_free_blocks=5, num_blocks=100, max_num_batched_tokens=2048)


def request(prompt: int, arrival: float = 0.0) -> EngineRequest:
    return EngineRequest("r", prompt, 0, 0, arrival, 0, 0)


def test_shortest_first_until_a_long_one_has_waited_long_enough():
    policy = load("batch/shortest_prompt:ageing=10")
    assert policy.waiting_key(request(10, 1.0)) < policy.waiting_key(request(100, 0.0))
    assert policy.waiting_key(request(100, 0.0)) < policy.waiting_key(request(10, 9.1))


def test_the_last_to_arrive_is_the_victim():
    policy = load("batch/shortest_prompt")
    assert policy.victim_key(request(1, 2.0)) > policy.victim_key(request(999, 1.0))


def test_a_share_of_a_step_is_prefill():
    assert load("batch/shortest_prompt").prefill_budget(ENGINE) == 2048
    assert load("batch/shortest_prompt:prefill_share=0.25").prefill_budget(ENGINE) == 512
    assert load("batch/shortest_prompt:prefill_share=0.0001").prefill_budget(ENGINE) == 1


@pytest.mark.parametrize("params", ["ageing=-1", "prefill_share=0", "prefill_share=1.1"])
def test_parameters_out_of_range(params):
    with pytest.raises(PolicyLoadError, match="ageing must be at least 0, prefill_share above 0"):
        load(f"batch/shortest_prompt:{params}")
