"""What is read out of a worker's metrics page."""

from __future__ import annotations

import pytest

from gateway.core.events import WorkerMetrics
from gateway.telemetry.vllm_metrics import engine_progress, parse_vllm_metrics

ONE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 40.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:cache_config_info{block_size="128",engine="0",hash_block_size="None",num_gpu_blocks="100"} 1.0
"""
TWO = (
    ONE
    + b"""vllm:num_requests_running{engine="1",model_name="a } b"} 4.0
vllm:num_requests_waiting{engine="1",model_name="a } b"} 0.0
vllm:kv_cache_usage_perc{engine="1",model_name="a } b"} 0.75
vllm:cache_config_info{num_gpu_blocks="100",block_size="128"} 1.0"""
)


@pytest.mark.parametrize(
    ("page", "values"),
    [
        (b"", WorkerMetrics()),
        (b"404: not found", WorkerMetrics()),
        (ONE, WorkerMetrics(3, 2, 0.25, 12_800, 128)),
        (TWO, WorkerMetrics(7, 2, 0.5, 25_600, 128)),
        (b"vllm:gpu_cache_usage_perc 0.5\n", WorkerMetrics(kv_cache_usage=0.5)),
        (b"vllm:kv_cache_usage_perc 1.5\n", WorkerMetrics(kv_cache_usage=1.0)),
        (b"vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\n", WorkerMetrics()),
        (b"vllm:num_requests_running\nvllm:num_requests_running \n", WorkerMetrics()),
        (b'vllm:cache_config_info{num_gpu_blocks="None",block_size="16"} 1.0\n', WorkerMetrics()),
        (b"xvllm:num_requests_running 7\n", WorkerMetrics()),
    ],
)
def test_a_page(page: bytes, values: WorkerMetrics) -> None:
    assert parse_vllm_metrics(page) == values


def test_an_engines_progress_moves_with_steps_and_tokens() -> None:
    page = ONE + b'vllm:generation_tokens_total{engine="0"} 7.0\nvllm:iteration_tokens_total_count{engine="0"} 3.0\n'
    assert engine_progress(page) == 10.0
    assert engine_progress(ONE) is None


def test_a_cache_of_an_impossible_size_is_not_believed() -> None:
    line = b'vllm:cache_config_info{block_size="%d",num_gpu_blocks="%d"} 1.0\n'
    assert parse_vllm_metrics(line % (10**14, 10**14)).kv_capacity_tokens is None
    assert parse_vllm_metrics(line % (10**14, 10**14) + line % (16, 100)).kv_capacity_tokens == 1600
