from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.describe import describe
from loadgen.synth import ARRIVALS, Lengths, SynthError, Workload, synthesize

BASE = Workload(rate=20.0, duration=200.0, seed=3)


def test_the_seed_decides_everything():
    assert list(synthesize(BASE)) == list(synthesize(BASE)) != list(synthesize(replace(BASE, seed=4)))


@pytest.mark.parametrize(
    ("arrivals", "cv", "low", "high"),
    [("poisson", 1.0, 0.9, 1.1), ("gamma", 3.0, 2.6, 3.4), ("lognormal", 2.0, 1.6, 2.6), ("constant", 1.0, 0.0, 0.001)],
)
def test_rate_and_burstiness(arrivals, cv, low, high):
    told = describe(synthesize(replace(BASE, duration=1000.0, arrivals=arrivals, cv=cv)))
    assert told.rate == pytest.approx(20.0, rel=0.1)
    assert low <= told.gap_cv <= high


def test_a_constant_rate_begins_at_once_and_ends_in_time():
    times = [request.timestamp for request in synthesize(Workload(2.0, 3.0, arrivals="constant"))]
    assert times == [0.0, 500.0, 1000.0, 1500.0, 2000.0, 2500.0]


def test_diurnal_swings_around_the_mean():
    workload = replace(BASE, duration=1000.0, arrivals="diurnal", period=1000.0, swing=0.8)
    first_half = [request.timestamp < 500_000.0 for request in synthesize(workload)]
    assert len(first_half) == pytest.approx(20_000, rel=0.05)
    assert sum(first_half) / len(first_half) == pytest.approx(0.5 + 0.8 / 3.1416, abs=0.02)


def test_lengths_are_log_normal_and_clipped():
    told = describe(synthesize(replace(BASE, inputs=Lengths(300.0, 1.0, 2000), outputs=Lengths(50.0))))
    assert told.input_length.p50 == pytest.approx(300.0, rel=0.1)
    assert told.input_length.maximum == 2000
    assert (told.output_length.p50, told.output_length.maximum) == (50, 50)


def test_changing_one_property_leaves_the_others():
    plain, other = (list(synthesize(replace(BASE, outputs=Lengths(median)))) for median in (10.0, 900.0))
    assert [(r.timestamp, r.input_length, r.max_tokens) for r in plain] == [
        (r.timestamp, r.input_length, r.max_tokens) for r in other
    ]


def test_shared_prefixes():
    workload = replace(BASE, num_prefixes=3, prefix_tokens=1024, prefix_share=0.5, inputs=Lengths(700.0))
    requests = list(synthesize(workload))
    prefixes = {request.hash_ids[:2] for request in requests if request.hash_ids[0] < 6}
    assert prefixes == {(0, 1), (2, 3), (4, 5)}
    shared = [request for request in requests if request.hash_ids[0] < 6]
    assert len(shared) / len(requests) == pytest.approx(0.5, abs=0.03)
    assert {request.input_length for request in shared} == {1724}
    assert {len(request.hash_ids) for request in shared} == {4}
    own = [hash_id for request in requests for hash_id in request.hash_ids if hash_id >= 6]
    assert len(own) == len(set(own))


def test_max_tokens_may_be_left_out():
    assert {request.max_tokens for request in synthesize(replace(BASE, max_tokens=()))} == {None}
    assert {request.max_tokens for request in synthesize(BASE)} == {512, 1024, 2048, 4096}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate": 0.0}, "rate: must be above 0"),
        ({"rate": float("nan")}, "rate: must be above 0"),
        ({"duration": -1.0}, "duration: must be above 0"),
        ({"inputs": Lengths(0.0)}, "input: must be a median of 1"),
        ({"outputs": Lengths(5.0, -1.0)}, "output: must be a median of 1"),
        ({"arrivals": "weibull"}, f"arrivals: must be one of {', '.join(ARRIVALS)}"),
        ({"cv": 0.0}, "cv: must be above 0"),
        ({"swing": 1.5}, "swing: must be between 0 and 1"),
        ({"period": 0.0}, "period: must be above 0"),
        ({"num_prefixes": -1}, "prefixes: must be at least 0"),
        ({"prefix_tokens": 100}, "prefix-tokens: must be at least 512"),
        ({"prefix_share": 2.0}, "prefix-share: must be between 0 and 1"),
        ({"max_tokens": (0,)}, "max-tokens: must be at least 1 each"),
    ],
)
def test_parameters_out_of_range(change, says):
    with pytest.raises(SynthError) as caught:
        synthesize(replace(BASE, **change))
    assert str(caught.value).startswith(says)
