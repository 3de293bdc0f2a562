from __future__ import annotations

import math

import pytest

from gateway.core.estimates import RATE_SECONDS, ArrivalRate, Estimates, RunningMean, decay


def test_a_running_mean_is_the_mean_and_then_forgets():
    mean = RunningMean(4)
    for value in (10, 20, 30, 40):
        mean.add(value)
    assert mean.value == pytest.approx(25)
    for _ in range(50):
        mean.add(100)
    assert mean.value == pytest.approx(100, rel=1e-3)


def test_one_bad_first_sample_does_not_poison_the_mean():
    mean = RunningMean(10)
    mean.add(30.0)
    for _ in range(30):
        mean.add(0.1)
    assert mean.value < 0.5


@pytest.mark.parametrize("x", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_decay_is_nearly_exponential(x):
    assert decay(x * 60, 60) == pytest.approx(math.exp(-x), rel=0.13)
    assert decay(1e12, 60.0) < 1e-9


class TestArrivalRate:
    def test_nothing_before_the_second_arrival(self):
        rate = ArrivalRate()
        assert rate.value(5.0) == 0.0
        rate.add(5.0)
        assert rate.value(5.0) == 0.0

    @pytest.mark.parametrize(("per_second", "error"), [(0.05, 0.25), (1.0, 0.05), (50.0, 0.05)])
    def test_a_steady_stream_is_known_from_the_start(self, per_second, error):
        rate = ArrivalRate()
        for n in range(40):
            rate.add(n / per_second)
            if n > 3:
                assert rate.value(n / per_second) == pytest.approx(per_second, rel=error)

    def test_it_follows_a_change_within_a_few_time_constants(self):
        rate = ArrivalRate()
        for n in range(1000):
            rate.add(n * 0.1)
        for n in range(600):
            rate.add(100 + n * 1.0)
        assert rate.value(700.0) == pytest.approx(1.0, rel=0.1)

    def test_it_falls_while_nothing_comes(self):
        rate = ArrivalRate()
        for n in range(600):
            rate.add(n * 0.1)
        values = [rate.value(60 + seconds) for seconds in (0, 30, 60, 300, 3000, 1e9)]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 1e-6
        assert not any(math.isnan(value) for value in values)

    def test_many_at_one_instant_are_no_division_by_zero(self):
        rate = ArrivalRate()
        for _ in range(5):
            rate.add(1.0)
        assert rate.value(1.0) == 0.0
        assert rate.value(2.0) == pytest.approx(4.0, rel=0.1)

    def test_asking_often_changes_little(self):
        rarely, often = ArrivalRate(), ArrivalRate()
        for n in range(200):
            for rate in (rarely, often):
                rate.add(n * 0.5)
            for step in range(5):
                often.value(n * 0.5 + step * 0.1)
        assert often.value(RATE_SECONDS * 2) == pytest.approx(rarely.value(RATE_SECONDS * 2), rel=0.02)


class TestEstimates:
    @pytest.fixture
    def estimates(self):
        return Estimates(prior_output_tokens=256.0, prior_tokens_per_byte=0.25)

    def test_priors(self, estimates):
        assert estimates.num_prompt_tokens("m", 400) == 100
        assert estimates.num_prompt_tokens("m", 0) == 1
        assert estimates.expected_output_tokens("m", "t", None) == 256.0
        assert estimates.mean_output_tokens == 256.0

    def test_the_tenants_mean_then_the_models_then_the_prior(self, estimates):
        estimates.completed("m", "a", 10)
        estimates.completed("m", "b", 30)
        assert estimates.expected_output_tokens("m", "a", None) == 10.0
        assert estimates.expected_output_tokens("m", "new", None) == 20.0
        assert estimates.expected_output_tokens("other", "a", None) == 256.0

    def test_no_more_is_expected_than_the_client_allows(self, estimates):
        assert estimates.expected_output_tokens("m", "t", 16) == 16.0

    def test_tokens_per_byte_by_model(self, estimates):
        for _ in range(300):
            estimates.prompt_counted("m", 1000, 400)
        assert estimates.num_prompt_tokens("m", 1000) == pytest.approx(400, abs=5)
        assert estimates.num_prompt_tokens("other", 1000) == 250

    def test_what_is_no_text_teaches_nothing(self, estimates):
        for _ in range(100):
            estimates.prompt_counted("m", 100, 100_000)
            estimates.prompt_counted("m", 100_000, 1)
        assert estimates.num_prompt_tokens("m", 1000) == 250

    def test_made_up_names_do_not_fill_the_memory(self, estimates):
        for n in range(10_000):
            estimates.completed("m", f"t{n}", 5)
            estimates.prompt_counted(f"m{n}", 1000, 300)
        assert len(estimates._outputs) <= 4096
        assert len(estimates._ratios) <= 256
        assert estimates.expected_output_tokens("m", "t0", None) == 5.0
