"""The mock worker's /metrics: vLLM's names, labels and buckets. Durations are real seconds, as a scraper sees them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.mockworker.engine import Engine, RequestStats, TokenRun

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTION_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")

_LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
            960.0, 1920.0, 7680.0)  # fmt: skip
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
                80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_ITERATION = (1, 8, *(2**n for n in range(4, 15)))
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


def _one_two_five(most: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, … up to ``most``: vLLM's buckets of token counts."""
    steps = (m * 10**e for e in range(len(str(most))) for m in (1, 2, 5))
    return tuple(n for n in steps if n <= most) or (1,)


class Histogram:
    """Counts by bucket, cheap enough for every token."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class WorkerMetrics:
    """What one engine has done, as Prometheus text. ``seconds`` turns engine time into real seconds."""

    def __init__(self, engine: Engine, model: str, seconds: Callable[[int], float], created: float) -> None:
        self._engine = engine
        self._labels = {"model_name": model, "engine": "0"}
        self._seconds = seconds
        self._created = created
        self._last_token: dict[str, int] = {}
        self.num_prompt_tokens = 0
        self.num_cached_prompt_tokens = 0
        self.num_generation_tokens = 0
        self.num_finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.num_rejections = dict.fromkeys(REJECTION_REASONS, 0)
        lengths = _one_two_five(engine.config.max_request_tokens)
        self.histograms = {
            "time_to_first_token_seconds": Histogram(_FIRST_TOKEN),
            "inter_token_latency_seconds": Histogram(_PER_TOKEN),
            "request_time_per_output_token_seconds": Histogram(_PER_TOKEN),
            "e2e_request_latency_seconds": Histogram(_LATENCY),
            "request_queue_time_seconds": Histogram(_LATENCY),
            "request_inference_time_seconds": Histogram(_LATENCY),
            "request_prefill_time_seconds": Histogram(_LATENCY),
            "request_decode_time_seconds": Histogram(_LATENCY),
            "request_prompt_tokens": Histogram(lengths),
            "request_generation_tokens": Histogram(lengths),
            "request_params_max_tokens": Histogram(lengths),
            "request_prefill_kv_computed_tokens": Histogram(lengths),
            "request_num_preemptions": Histogram(_PREEMPTIONS),
            "iteration_tokens_total": Histogram(_ITERATION),
        }
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self))

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def observe(self, run: TokenRun, engine: Engine) -> None:
        """Counts a run of tokens, and the requests that begin or end in it."""
        finished = {stats.request_id: stats for stats in run.stats}
        prompt_tokens = sum(self._first_token(run, finished.get(i) or engine.stats(i)) for i in run.first)
        self._gaps(run)
        per_step = len(run.request_ids)
        self.num_generation_tokens += per_step * run.num_steps
        self.histograms["iteration_tokens_total"].observe(per_step + prompt_tokens, run.num_steps)
        for stats in run.stats:
            self._ended(stats)

    def forget(self, request_id: str) -> None:
        """An aborted request; vLLM does not count it either."""
        self._last_token.pop(request_id, None)

    def _first_token(self, run: TokenRun, stats: RequestStats | None) -> int:
        """The prompt's length."""
        if stats is None:
            return 0
        self.num_prompt_tokens += stats.num_prompt_tokens
        self.num_cached_prompt_tokens += stats.num_cached_tokens
        self.histograms["time_to_first_token_seconds"].observe(self._seconds(run.end - stats.arrival))
        return stats.num_prompt_tokens

    def _gaps(self, run: TokenRun) -> None:
        """Inter-token latency. Requests of a run make their tokens together, so most share one gap."""
        last, gaps = self._last_token, self.histograms["inter_token_latency_seconds"]
        step = (run.end - run.start) // run.num_steps
        first_end = run.end - step * (run.num_steps - 1)
        shared: dict[int, int] = {}
        for request_id in run.request_ids:
            before = last.get(request_id)
            last[request_id] = run.end
            if before is not None:
                shared[first_end - before] = shared.get(first_end - before, 0) + 1
        for gap, times in shared.items():
            gaps.observe(self._seconds(gap), times)
        if run.num_steps > 1:
            gaps.observe(self._seconds(step), (run.num_steps - 1) * len(run.request_ids))

    def _ended(self, stats: RequestStats) -> None:
        self._last_token.pop(stats.request_id, None)
        durations = {
            "e2e_request_latency_seconds": stats.finish - stats.arrival,
            "request_queue_time_seconds": stats.first_scheduled - stats.arrival,
            "request_inference_time_seconds": stats.finish - stats.first_scheduled,
            "request_prefill_time_seconds": stats.first_token - stats.first_scheduled,
            "request_decode_time_seconds": stats.finish - stats.first_token,
            "request_time_per_output_token_seconds": (stats.finish - stats.first_token)
            // max(1, stats.num_output_tokens - 1),
        }
        for name, duration in durations.items():
            self.histograms[name].observe(self._seconds(duration))
        self.histograms["request_prompt_tokens"].observe(stats.num_prompt_tokens)
        self.histograms["request_generation_tokens"].observe(stats.num_output_tokens)
        self.histograms["request_prefill_kv_computed_tokens"].observe(stats.num_prompt_tokens - stats.num_cached_tokens)
        self.histograms["request_num_preemptions"].observe(stats.num_preemptions)

    # -- exposition -----------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        for name, histogram in self.histograms.items():
            family = HistogramMetricFamily(f"vllm:{name}", _HELP.get(name, name), labels=list(self._labels))
            family.add_metric(list(self._labels.values()), histogram.buckets(), histogram.total)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        engine = self._engine
        yield self._gauge("num_requests_running", engine.num_running)
        yield self._gauge("num_requests_waiting", engine.num_waiting)
        by_reason = {"capacity": engine.num_waiting, "deferred": 0}
        yield self._gauge("num_requests_waiting_by_reason", by_reason, "reason")
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        yield self._gauge("engine_sleep_state", states, "sleep_state")
        yield self._gauge("kv_cache_usage_perc", engine.kv_cache_usage)
        yield self._cache_config()

    def _gauge(self, name: str, value: float | dict[str, int], label: str = "") -> Metric:
        values = value if isinstance(value, dict) else {"": value}
        family = GaugeMetricFamily(f"vllm:{name}", _HELP.get(name, name), labels=self._names(label))
        for reason, amount in values.items():
            family.add_metric(self._values(label, reason), amount)
        return family

    def _cache_config(self) -> Metric:
        config = self._engine.config
        labels = {
            "block_size": str(config.block_size),
            "enable_prefix_caching": str(config.enable_prefix_caching),
            "engine": "0",
            "kv_cache_size_tokens": str(config.num_gpu_blocks * config.block_size),
            "num_gpu_blocks": str(config.num_gpu_blocks),
        }
        family = GaugeMetricFamily("vllm:cache_config_info", _HELP["cache_config_info"], labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family

    def _counters(self) -> Iterator[Metric]:
        engine, cached = self._engine, self.num_cached_prompt_tokens
        yield self._counter("prefix_cache_queries", engine.num_prefix_queries)
        yield self._counter("prefix_cache_hits", engine.num_prefix_hits)
        yield self._counter("num_preemptions", engine.num_preemptions)
        yield self._counter("prompt_tokens", self.num_prompt_tokens)
        sources = {
            "local_compute": self.num_prompt_tokens - cached,
            "local_cache_hit": cached,
            "external_kv_transfer": 0,
        }
        yield self._counter("prompt_tokens_by_source", sources, "source")
        yield self._counter("prompt_tokens_cached", cached)
        yield self._counter("generation_tokens", self.num_generation_tokens)
        yield self._counter("request_success", self.num_finished, "finished_reason")
        yield self._counter("admission_rejections", self.num_rejections, "reason")

    def _counter(self, name: str, value: float | dict[str, int], label: str = "") -> Metric:
        values = value if isinstance(value, dict) else {"": value}
        family = CounterMetricFamily(f"vllm:{name}", _HELP.get(name, name), labels=self._names(label))
        for reason, amount in values.items():
            family.add_metric(self._values(label, reason), amount, created=self._created)
        return family

    def _names(self, label: str) -> list[str]:
        return [*self._labels, label] if label else list(self._labels)

    def _values(self, label: str, value: str) -> list[str]:
        return [*self._labels.values(), value] if label else list(self._labels.values())


class _Collector:
    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


_HELP = {
    "num_requests_running": "Requests in the engine's batch.",
    "num_requests_waiting": "Requests waiting to be admitted.",
    "kv_cache_usage_perc": "KV cache in use, 0 to 1.",
    "cache_config_info": "The engine's KV cache.",
}
