"""Emitted autoscaling policies: what they answer, as the program means it, and that a person can read them."""

import random

from designer.proposers.emit_scaling import scaling_section, why_scaling
from designer.proposers.interpret_scaling import Scaler
from designer.proposers.scaling import ScalingProgram, make, random_scaling
from designer.proposers.sections import compose
from policies.contract import AutoscalingPolicy, Pool, Variant, Worker
from policies.loader import PolicySpec, load_source


def scaler(program: ScalingProgram) -> AutoscalingPolicy:
    source = compose([scaling_section(program)])
    policy = load_source(source.encode(), PolicySpec("s.py"), random.Random(0), path="s.py", name="s").policy
    assert hasattr(policy, "desired_replicas")
    return policy  # type: ignore[no-any-return]


def pool(now: float, rate: float = 0.0, inflight: int = 0, waiting: int = 0, arrived: int = 0) -> Pool:
    workers = [Worker("w", num_requests_waiting=waiting, kv_cache_usage=0.5, num_inflight_prefill_tokens=7 * waiting)]
    return Pool(
        "p",
        now,
        workers,
        {"a": Variant("a", min_replicas=1, max_replicas=8), "b": Variant("b", min_replicas=0, max_replicas=30)},
        num_inflight_requests=inflight,
        arrival_rate=rate,
        num_queued_requests=waiting // 2,
        num_queued_prompt_tokens=30 * waiting,
        num_arrived_requests=arrived,
        num_arrived_prompt_tokens=200 * arrived,
    )


def test_what_is_measured_over_what_a_replica_carries() -> None:
    policy = scaler(make(("requests",), "larger", {"requests_per_replica": 10.0, "hold_seconds": 1.0}))
    assert policy.desired_replicas(pool(0.0, inflight=31)) == {"a": 4, "b": 0}
    assert policy.desired_replicas(pool(5.0, inflight=500)) == {"a": 8, "b": 30}
    assert policy.desired_replicas(pool(10.0)) == {"a": 1, "b": 0}


def test_the_larger_of_two_signals_and_what_is_to_spare() -> None:
    constants = {"requests_per_replica": 10.0, "rate_per_replica": 2.0, "spare_replicas": 1.0}
    policy = scaler(make(("requests", "arrivals"), "larger", constants))
    assert policy.desired_replicas(pool(0.0, rate=7.0, inflight=5)) == {"a": 5, "b": 0}


def test_fewer_are_wanted_only_after_a_while() -> None:
    policy = scaler(make(("requests",), "larger", {"requests_per_replica": 10.0, "hold_seconds": 60.0}))
    policy.desired_replicas(pool(0.0, inflight=50))
    assert policy.desired_replicas(pool(59.0, inflight=10)) == {"a": 5, "b": 0}
    assert policy.desired_replicas(pool(61.0, inflight=10)) == {"a": 1, "b": 0}


def test_the_line_through_the_arrivals_is_carried_on() -> None:
    constants = {"rate_per_replica": 1.0, "window_seconds": 60.0, "lead_seconds": 30.0, "fall_lead_seconds": 10.0}
    policy = scaler(make(("requests_ahead",), "larger", constants, hold_seconds=1.0))
    for time, arrived in ((0.0, 0), (10.0, 10)):
        policy.desired_replicas(pool(time, arrived=arrived))
    rising = "1 a second, then 2: 2.5 now, 0.1 a second more for 30 s"
    assert policy.desired_replicas(pool(20.0, arrived=30)) == {"a": 6, "b": 0}, rising
    falling = "the rates 1, 2, 0.1 lie about a line that falls by 0.045 a second from 0.36 now, 10 s on it is below 0"
    assert policy.desired_replicas(pool(30.0, arrived=31)) == {"a": 1, "b": 0}, falling


def test_a_module_answers_as_its_program_means() -> None:
    rng = random.Random(3)
    for _ in range(60):
        program = random_scaling(rng)
        emitted, meant = scaler(program), Scaler(program)
        now, arrived = 0.0, 0
        for _ in range(40):
            now += rng.uniform(1.0, 30.0)
            arrived += rng.randrange(200)
            seen = pool(now, rng.uniform(0.0, 40.0), rng.randrange(300), rng.randrange(60), arrived)
            assert emitted.desired_replicas(seen) == meant.desired_replicas(seen), program


def test_the_reason_names_what_the_program_has() -> None:
    assert "a line through what arrived lately" in why_scaling(make(("requests_ahead",), "larger", {}))
    assert "What is in flight" in why_scaling(make(("requests",), "larger", {"hold_seconds": 1.0}))
    assert "costs no cold start" in why_scaling(make(("requests",), "larger", {"hold_seconds": 60.0}))


def test_the_rule_reads_as_a_sentence() -> None:
    constants = {"requests_per_replica": 10.0, "rate_per_replica": 2.5, "spare_replicas": 0.5, "hold_seconds": 60.0}
    section = scaling_section(make(("requests", "arrivals"), "sum", constants))
    assert section.title == "Replicas by requests in flight and the arrival rate"
    assert section.rules[0].startswith(
        "Replicas wanted: the sum of one for every 10 requests in flight and held; and one for every 2.5 requests a "
        "second that arrived in the last minute; and 0.5 to spare; rounded up. More are asked for at once;"
    )
