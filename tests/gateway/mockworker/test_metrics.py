from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineRequest
from gateway.mockworker.metrics import Histogram, WorkerMetrics
from tests.support.mock_profile import flat_profile

# A vLLM 0.32 server's names, as its /metrics shows them (a selection: what routers and dashboards read).
VLLM_NAMES = {
    "gauge": [
        "vllm:cache_config_info",
        "vllm:engine_sleep_state",
        "vllm:kv_cache_usage_perc",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting_by_reason",
    ],
    "counter": [
        "vllm:admission_rejections_total",
        "vllm:generation_tokens_total",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prompt_tokens_by_source_total",
        "vllm:prompt_tokens_cached_total",
        "vllm:prompt_tokens_total",
        "vllm:request_success_total",
    ],
    "histogram": [
        "vllm:e2e_request_latency_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:iteration_tokens_total",
        "vllm:request_decode_time_seconds",
        "vllm:request_generation_tokens",
        "vllm:request_inference_time_seconds",
        "vllm:request_num_preemptions",
        "vllm:request_params_max_tokens",
        "vllm:request_prefill_kv_computed_tokens",
        "vllm:request_prefill_time_seconds",
        "vllm:request_prompt_tokens",
        "vllm:request_queue_time_seconds",
        "vllm:request_time_per_output_token_seconds",
        "vllm:time_to_first_token_seconds",
    ],
}


@pytest.fixture
def engine() -> Engine:
    profile = flat_profile(step_ms=100)
    return Engine(profile.engine, profile)


@pytest.fixture
def metrics(engine: Engine) -> WorkerMetrics:
    return WorkerMetrics(engine, "tiny", lambda ps: ps / PS_PER_SECOND, created=1.0)


def run(engine: Engine, metrics: WorkerMetrics, *requests: EngineRequest) -> None:
    for request in requests:
        engine.add(request, 0)
    while (at := engine.next_event_time()) is not None:
        for tokens in engine.advance(at):
            metrics.observe(tokens, engine)


def samples(metrics: WorkerMetrics) -> dict[str, float]:
    """By name, and the last label value where that tells samples apart."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        "/".join([s.name, *(v for k, v in s.labels.items() if k not in ("engine", "model_name"))]): s.value
        for family in families
        for s in family.samples
    }


def test_names_and_kinds_are_vllms(metrics: WorkerMetrics) -> None:
    lines = [line.split() for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")]
    shown = {(kind, name) for _, _, name, kind in lines if not name.endswith("_created")}
    assert shown == {(kind, name) for kind, names in VLLM_NAMES.items() for name in names}


def test_every_sample_says_model_and_engine(metrics: WorkerMetrics) -> None:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("vllm:")]
    assert lines
    unlabelled = [line for line in lines if 'engine="0"' not in line and not line.startswith("vllm:admission")]
    assert not unlabelled
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' in lines


def test_the_cache_is_described(metrics: WorkerMetrics) -> None:
    (line,) = [line for line in metrics.render().decode().splitlines() if line.startswith("vllm:cache_config_info{")]
    assert 'block_size="16"' in line and 'num_gpu_blocks="1000"' in line


def test_counts_and_durations_of_requests(engine: Engine, metrics: WorkerMetrics) -> None:
    run(engine, metrics, EngineRequest("a", 32, 3), EngineRequest("b", 5, 1))
    shown = samples(metrics)
    assert shown["vllm:prompt_tokens_total"] == 37
    assert shown["vllm:generation_tokens_total"] == 4
    assert shown["vllm:time_to_first_token_seconds_count"] == 2
    assert shown["vllm:time_to_first_token_seconds_sum"] == pytest.approx(0.1 + 0.2), "b joins the second step"
    assert shown["vllm:inter_token_latency_seconds_count"] == 2, "gaps of the three tokens of a"
    assert shown["vllm:inter_token_latency_seconds_sum"] == pytest.approx(0.2)
    assert shown["vllm:inter_token_latency_seconds_bucket/0.1"] == 2
    assert shown["vllm:inter_token_latency_seconds_bucket/0.075"] == 0
    assert shown["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(0.3 + 0.2)
    assert shown["vllm:request_decode_time_seconds_sum"] == pytest.approx(0.2)
    assert shown["vllm:request_generation_tokens_sum"] == 4
    assert shown["vllm:iteration_tokens_total_count"] == 3
    assert shown["vllm:iteration_tokens_total_sum"] == 37 + 4


def test_prefix_hits_are_told_by_source() -> None:
    profile = flat_profile()
    engine = Engine(profile.engine, profile)
    metrics = WorkerMetrics(engine, "tiny", lambda ps: ps / PS_PER_SECOND, created=1.0)
    chunks = ((7, 16), (8, 32))
    run(engine, metrics, EngineRequest("a", 40, 2, prefix_chunks=chunks))
    engine.add(EngineRequest("b", 40, 2, prefix_chunks=chunks), 10 * PS_PER_SECOND)
    run(engine, metrics)
    shown = samples(metrics)
    assert shown["vllm:prefix_cache_hits_total"] == 32
    assert shown["vllm:prompt_tokens_by_source_total/local_cache_hit"] == 32
    assert shown["vllm:prompt_tokens_by_source_total/local_compute"] == 48


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    histogram.observe(9.0, times=3)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 8)]
    assert histogram.total == 7.5 + 27
