"""A pool and its set, there and back through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from gateway.core.policy_set import PolicySet, PolicySource
from gateway.core.pool import PoolConfig
from gateway.core.pool_codec import decode_pool, decode_set, encode_pool, encode_set
from policies.loader import load_policies, parse_specs

POLICIES = PolicySet.of(load_policies(parse_specs("least_loaded+fcfs"), 7, 3), 3)


def load(pool: str, generation: int, sources: tuple[PolicySource, ...]) -> PolicySet:
    assert (pool, sources) == ("p", POLICIES.sources)
    return replace(POLICIES, generation=generation)


def test_a_pool_is_what_it_was() -> None:
    config = PoolConfig("p", ("m", "n"), POLICIES, max_queue_seconds=3.0, replicas={"h100": (1, 4)})
    decoded = decode_pool(json.loads(json.dumps(encode_pool(config))), load)
    assert replace(decoded, policy_set=None) == replace(config, policy_set=None)
    assert decoded.policy_set is not None and decoded.policy_set.generation == 3


def test_the_built_in_needs_no_loader() -> None:
    decoded = decode_set("p", json.loads(json.dumps(encode_set(PolicySet.builtin(5)))), load)
    assert (decoded.generation, decoded.routing) == (5, None)


def test_a_log_from_before_a_setting_was_there_is_read() -> None:
    encoded = encode_pool(PoolConfig("p"))
    del encoded["retry_share"]
    assert decode_pool(encoded, load) == PoolConfig("p")
