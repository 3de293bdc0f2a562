from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.records import Record
from loadgen.report import summarize


def record(intended: float = 0.0, lag: float = 0.0, ttft: float | None = 0.2, e2e: float = 1.0, **more) -> Record:
    plain = Record(
        request_id="r",
        intended=intended,
        sent=intended + lag,
        end=intended + e2e,
        first_token=None if ttft is None else intended + ttft,
        input_length=100,
        output_length=9,
        max_tokens=None,
        num_prompt_tokens=None,
        num_output_tokens=9,
        num_cached_tokens=None,
        max_gap=0.1,
        status=200,
        error=None,
        detail=None,
        worker=None,
    )
    return replace(plain, **more)


def test_latency_counts_from_the_intended_time():
    """A client that was 5 s late does not make the server look 5 s faster."""
    report = summarize([record(lag=0.0, ttft=0.2, e2e=1.0), record(lag=5.0, ttft=5.2, e2e=6.0)])
    assert report.ttft.maximum == pytest.approx(5.2)
    assert report.e2e.maximum == pytest.approx(6.0)
    assert report.lag.maximum == pytest.approx(5.0)


def test_failures_are_counted_and_kept_out_of_the_latencies():
    quick = record(e2e=0.001, ttft=None, error="http 503", status=503, num_output_tokens=0)
    report = summarize([record(worker="b"), record(worker="a"), quick, quick, replace(quick, error="timeout")])
    assert (report.num_requests, report.num_completed, report.num_failed) == (5, 2, 3)
    assert report.errors == {"http 503": 2, "timeout": 1}
    assert list(report.errors) == ["http 503", "timeout"]
    assert report.e2e.p50 == 1.0
    assert report.workers == {"a": 1, "b": 1}


def test_rates_and_tokens():
    report = summarize([record(intended=float(n), num_prompt_tokens=50 if n else None) for n in range(4)])
    assert report.duration == 4.0
    assert (report.request_rate, report.output_token_rate) == (1.0, 9.0)
    assert (report.num_prompt_tokens, report.num_output_tokens) == (250, 36)
    assert report.tpot.p50 == pytest.approx(0.1)


def test_a_single_token_has_no_time_per_token():
    assert summarize([record(num_output_tokens=1)]).tpot is None


def test_without_a_stream_there_is_no_ttft():
    report = summarize([record(ttft=None)])
    assert (report.ttft, report.tpot, report.max_gap) == (None, None, None)
    assert report.valid


@pytest.mark.parametrize(
    ("lag", "ttft", "valid"),
    [
        pytest.param(0.009, 0.1, True, id="under 10 ms"),
        pytest.param(0.011, 0.1, False, id="over 10 ms"),
        pytest.param(0.011, 0.3, True, id="under 5 % of the median TTFT"),
        pytest.param(0.016, 0.3, False, id="over 5 % of the median TTFT"),
    ],
)
def test_the_verdict_on_the_lag(lag, ttft, valid):
    report = summarize([record(lag=lag, ttft=ttft) for _ in range(100)])
    assert report.valid is valid
    assert report.verdict.startswith(
        "valid" if valid else f"invalid: 1 % of the requests were sent more than {lag * 1000:.1f} ms late"
    )


def test_one_late_request_of_a_hundred_is_no_verdict_but_two_are():
    on_time, late = [record() for _ in range(99)], record(lag=1.0)
    assert summarize([*on_time, late]).valid
    assert not summarize([*on_time[:98], late, late]).valid


def test_the_end_to_end_time_bounds_the_lag_of_unstreamed_runs():
    assert summarize([record(lag=0.04, ttft=None, e2e=1.0)]).valid
    assert not summarize([record(lag=0.06, ttft=None, e2e=1.0)]).valid


def test_nothing_completed_and_nothing_sent():
    assert summarize([record(error="timeout")]).verdict == "invalid: no request was completed"
    assert summarize([]).verdict == "invalid: no request was sent"
    assert summarize([]).as_dict()["e2e"] is None
