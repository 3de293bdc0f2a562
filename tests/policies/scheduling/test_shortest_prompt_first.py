from __future__ import annotations

import pytest

from policies.contract import Pool
from policies.loader import PolicyLoadError
from tests.support.policy_calls import load, request


@pytest.mark.parametrize(
    ("ageing", "first"),
    [
        pytest.param(0, "short", id="pure: the short one always"),
        pytest.param(1, "short", id="60 s are worth 60 tokens"),
        pytest.param(20, "long", id="60 s are worth 1,200 tokens"),
    ],
)
def test_ageing_is_tokens_per_second(ageing, first):
    key = load(f"shortest_prompt_first:ageing={ageing}").key
    requests = {"short": request(100, arrival_time=100.0), "long": request(1000, arrival_time=40.0)}
    assert min(requests, key=lambda name: key(requests[name])) == first


def test_equal_prompts_keep_the_order_of_arrival():
    key = load("shortest_prompt_first:ageing=0").key
    assert key(request(5, arrival_time=1.0)) < key(request(5, arrival_time=2.0))


def test_nothing_is_shed_and_ageing_is_not_negative():
    assert load("shortest_prompt_first").admit(request(), Pool("p")) is True
    with pytest.raises(PolicyLoadError, match="ageing must be at least 0"):
        load("shortest_prompt_first:ageing=-1")
