from __future__ import annotations

import orjson
import pytest

from loadgen.plan import Plan, PlanError, bounds
from loadgen.synth import Lengths, Workload
from loadgen.trace import TraceError, TraceRequest, write_trace


def test_a_plan_survives_json():
    workload = Workload(2.0, 3.0, inputs=Lengths(7.0, 0.5), max_tokens=(1, 2), arrivals="gamma")
    plan = Plan("http://x", workload=workload, speed=2.0, api_key="k")
    assert Plan.from_dict(orjson.loads(orjson.dumps(plan.as_dict()))) == plan
    assert Plan.from_dict(Plan("http://x", trace="t").as_dict()) == Plan("http://x", trace="t")


def test_requests_of_a_trace_are_cut(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, [TraceRequest(1000.0 * n, 1, 1) for n in range(10)])
    assert len(Plan("u", trace=str(path)).requests()) == 10
    assert len(Plan("u", trace=str(path), limit_seconds=4.0).requests()) == 4
    assert len(Plan("u", trace=str(path), limit_seconds=4.0, max_requests=2).requests()) == 2


def test_requests_of_a_workload():
    assert len(Plan("u", workload=Workload(2.0, 3.0, arrivals="constant")).requests()) == 6


def test_nothing_to_send(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_trace(path, [TraceRequest(1000.0, 1, 1)])
    with pytest.raises(PlanError, match="no request in the time asked for"):
        Plan("u", trace=str(path), limit_seconds=0.5).requests()
    with pytest.raises(TraceError, match="No such file"):
        Plan("u", trace=str(tmp_path / "none")).requests()


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("speed", "--speed: must be above 0"),
        ("timeout", "--timeout: must be above 0"),
        ("limit_seconds", "--limit-seconds: must be above 0"),
        ("max_requests", "--max-requests: must be at least 1"),
        ("concurrency", "--concurrency: must be at least 1"),
        ("max_inflight", "--max-inflight: must be at least 1"),
    ],
)
def test_options_out_of_range(field, option):
    with pytest.raises(PlanError) as caught:
        Plan("u", **{field: 0})
    assert str(caught.value) == option


@pytest.mark.parametrize(("longest", "drawn"), [(1, (1, 2, 4)), (512, (512, 1024, 2048)), (1000, (1024, 2048, 4096))])
def test_no_bound_cuts_an_answer_or_tells_its_length(longest, drawn):
    assert bounds([TraceRequest(0, 1, 1), TraceRequest(0, 1, longest)]) == drawn
