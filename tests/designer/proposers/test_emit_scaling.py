"""Emitted autoscaling policies: what they answer, and that a person can read them."""

import random

from designer.proposers.emit_scaling import emit_scaling, why_scaling
from designer.proposers.grammar import Const
from designer.proposers.scaling import SIGNALS, ScalingProgram, Signal, SignalName, random_scaling
from policies.conformance import Effort, check_policy, check_source
from policies.contract import AutoscalingPolicy, Pool, Variant, Worker
from policies.loader import LoadedPolicy, PolicySpec, load_source

QUICK = Effort(num_situations=40, num_steps=40, subprocess=False)


def program(*signals: tuple[SignalName, float], spare: float = 0.0, hold: float = 1.0) -> ScalingProgram:
    parts = tuple(Signal(name, Const(SIGNALS[name].carried, carried)) for name, carried in signals)
    others = (Const("spare_replicas", spare), Const("hold_seconds", hold), Const("lead_seconds", 30.0))
    return ScalingProgram(parts, "larger", *others)


def loaded(of: ScalingProgram) -> LoadedPolicy:
    return load_source(emit_scaling(of).encode(), PolicySpec("s.py"), random.Random(0), path="s.py", name="s")


def scaler(of: ScalingProgram) -> AutoscalingPolicy:
    policy = loaded(of).policy
    assert hasattr(policy, "desired_replicas")
    return policy  # type: ignore[no-any-return]


def pool(now: float, rate: float = 0.0, inflight: int = 0, waiting: int = 0) -> Pool:
    workers = [Worker("w", num_requests_waiting=waiting)]
    variants = {"a": Variant("a", min_replicas=1, max_replicas=8)}
    return Pool("p", now, workers, variants, num_inflight_requests=inflight, arrival_rate=rate)


def test_what_is_measured_over_what_a_replica_carries() -> None:
    policy = scaler(program(("requests", 10.0)))
    assert policy.desired_replicas(pool(0.0, inflight=31)) == {"a": 4}
    assert policy.desired_replicas(pool(5.0, inflight=500)) == {"a": 8}
    assert policy.desired_replicas(pool(10.0)) == {"a": 1}


def test_the_larger_of_two_signals_and_what_is_to_spare() -> None:
    policy = scaler(program(("requests", 10.0), ("arrivals", 2.0), spare=1.0))
    assert policy.desired_replicas(pool(0.0, rate=7.0, inflight=5)) == {"a": 5}


def test_fewer_are_wanted_only_after_a_while() -> None:
    policy = scaler(program(("requests", 10.0), hold=60.0))
    policy.desired_replicas(pool(0.0, inflight=50))
    assert policy.desired_replicas(pool(59.0, inflight=10)) == {"a": 5}
    assert policy.desired_replicas(pool(61.0, inflight=10)) == {"a": 1}


def test_the_rate_is_carried_on_along_its_slope() -> None:
    policy = scaler(program(("forecast", 1.0)))
    policy.desired_replicas(pool(0.0, rate=1.0))
    assert policy.desired_replicas(pool(10.0, rate=2.0)) == {"a": 5}, "0.1 a second more for 30 s"


def test_every_program_keeps_the_contract_and_is_narrow() -> None:
    rng = random.Random(2)
    for _ in range(12):
        one = random_scaling(rng)
        source = emit_scaling(one)
        assert check_source(source) == []
        assert check_policy(loaded(one), QUICK) == []
        assert max(map(len, source.splitlines())) <= 120
        assert "Why it should work" in source
        assert why_scaling(one).endswith(".")
