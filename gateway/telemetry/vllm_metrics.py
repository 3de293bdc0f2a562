"""Reads the few gauges a gateway needs out of vLLM's Prometheus text, without parsing the rest of it.

A worker's page is about 60 KB and is read every second from every worker, so each name is found with
``bytes.find``. Names: current vLLM, and ``vllm:gpu_cache_usage_perc`` as older servers send it.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.events import WorkerMetrics

_MAX_DIGITS = 15
_MAX_TOKENS = 10**15
"""Of a cache: what is beyond is no size."""


def parse_vllm_metrics(page: bytes) -> WorkerMetrics:
    """The worker's values: counts summed over its engines, cache usage their mean; None where it says nothing."""
    usage = _values(page, b"vllm:kv_cache_usage_perc") or _values(page, b"vllm:gpu_cache_usage_perc")
    capacity, block_size = _cache_config(page)
    return WorkerMetrics(
        num_requests_running=_sum(_values(page, b"vllm:num_requests_running")),
        num_requests_waiting=_sum(_values(page, b"vllm:num_requests_waiting")),
        kv_cache_usage=min(1.0, max(0.0, sum(usage) / len(usage))) if usage else None,
        kv_capacity_tokens=capacity,
        block_size=block_size,
    )


def engine_progress(page: bytes) -> float | None:
    """Moves with every engine step that does work, and with every token: steps, prompt and generated tokens. None where
    the worker counts none of them."""
    names = (b"vllm:iteration_tokens_total_count", b"vllm:prompt_tokens_total", b"vllm:generation_tokens_total")
    values = [value for name in names for value in _values(page, name)]
    return sum(values) if values else None


def process_began_at(page: bytes) -> float | None:
    """Seconds since the epoch; None where the worker does not say."""
    values = _values(page, b"process_start_time_seconds")
    return values[0] if values else None


def _sum(values: list[float]) -> int | None:
    return round(sum(values)) if values else None


def _values(page: bytes, name: bytes) -> list[float]:
    found = []
    for line in _samples(page, name):
        try:
            value = float(line.rpartition(b"}")[2].split()[0])
        except (ValueError, IndexError):
            continue
        if 0.0 <= value < 1e15:  # neither NaN nor infinite
            found.append(value)
    return found


def _cache_config(page: bytes) -> tuple[int | None, int | None]:
    """KV tokens of all engines together, and tokens in a block."""
    total, size = 0, None
    for line in _samples(page, b"vllm:cache_config_info"):
        blocks, block_size = _label(line, b"num_gpu_blocks"), _label(line, b"block_size")
        if blocks and block_size and total + blocks * block_size < _MAX_TOKENS:
            total, size = total + blocks * block_size, block_size
    return total or None, size


def _label(line: bytes, name: bytes) -> int | None:
    """An integer label; its name may be the end of another's (``hash_block_size``)."""
    for before in (b"{", b","):
        _, found, rest = line.partition(before + name + b'="')
        digits = rest.partition(b'"')[0]
        if found and digits.isdigit() and len(digits) <= _MAX_DIGITS:
            return int(digits)
    return None


def _samples(page: bytes, name: bytes) -> Iterator[bytes]:
    """What follows ``name`` on each line that is a sample of exactly that metric."""
    at = 0
    while (at := page.find(name, at)) >= 0:
        begin, at = at, at + len(name)
        if (begin == 0 or page[begin - 1 : begin] == b"\n") and page[at : at + 1] in (b"{", b" "):
            end = page.find(b"\n", at)
            yield page[at:] if end < 0 else page[at:end]
