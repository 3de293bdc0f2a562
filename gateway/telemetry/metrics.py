"""What the gateway says of itself to Prometheus: names ``ranvier_*``, a registry of its own, bounded labels.

Labels are pools, workers, and words from fixed lists: never a tenant, a session, a path or a model as a client
wrote it. Counters of the hot path have their children bound once. What can be read off live objects (queues,
in-flight counts, ages) is read when Prometheus asks, so it is never stale and costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.commands import Command, Dispatch, Reject
from gateway.core.events import Event
from gateway.http.metrics import Ending

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_E2E_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 240, 480, 960)
_LAG_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
_NO_POOL = ""


class _PoolMetrics:
    """The children of one pool, bound once."""

    def __init__(self, owner: GatewayMetrics, pool: str) -> None:
        self.queued = owner.queue_seconds.labels(pool)
        self.ttft = owner.ttft_seconds.labels(pool)
        self.tpot = owner.tpot_seconds.labels(pool)
        self.e2e = owner.e2e_seconds.labels(pool)
        self.prompt_tokens = owner.tokens.labels(pool, "prompt")
        self.output_tokens = owner.tokens.labels(pool, "output")


class GatewayMetrics:
    """Everything that is counted. Implements what the data plane, the scraper and the policy files report to.

    Args:
        pool_of: the pool of a worker; empty when it is gone.
    """

    def __init__(self, pool_of: Callable[[str], str] = lambda worker_id: _NO_POOL) -> None:
        self.registry = r = CollectorRegistry()
        self._pool_of = pool_of
        ProcessCollector(registry=r)
        Gauge("ranvier_build_info", "Always 1.", ["version"], registry=r).labels(__version__).set(1)
        self.requests = Counter(
            "ranvier_requests", "Requests to a model that are over.", ["pool", "code", "ending"], registry=r
        )
        self.refused = Counter("ranvier_refused_requests", "Malformed, too large or forbidden.", ["code"], registry=r)
        self.queue_seconds = Histogram(
            "ranvier_request_queue_seconds", "Arrival to last dispatch.", ["pool"], registry=r, buckets=_TTFT_BUCKETS
        )
        self.ttft_seconds = Histogram(
            "ranvier_request_ttft_seconds",
            "Arrival to first content token.",
            ["pool"],
            registry=r,
            buckets=_TTFT_BUCKETS,
        )
        self.tpot_seconds = Histogram(
            "ranvier_request_tpot_seconds", "Each token after the first.", ["pool"], registry=r, buckets=_TPOT_BUCKETS
        )
        self.e2e_seconds = Histogram(
            "ranvier_request_e2e_seconds",
            "Arrival to the end of the answer.",
            ["pool"],
            registry=r,
            buckets=_E2E_BUCKETS,
        )
        self.tokens = Counter("ranvier_tokens", "Of finished requests.", ["pool", "kind"], registry=r)
        self.retries = Counter(
            "ranvier_retries", "Dispatches that failed before a byte.", ["worker", "reason"], registry=r
        )
        self.dispatches = Counter("ranvier_dispatches", "Requests sent to a worker.", ["worker"], registry=r)
        self.rejects = Counter("ranvier_rejects", "Requests the dispatcher turned away.", ["reason"], registry=r)
        self.scrapes = Counter("ranvier_scrapes", "Of a worker's metrics page.", ["worker", "ok"], registry=r)
        self.health_changes = Counter(
            "ranvier_worker_health_changes", "By new state.", ["worker", "healthy"], registry=r
        )
        self.swaps = Counter(
            "ranvier_policy_swaps", "By origin and outcome.", ["pool", "origin", "outcome"], registry=r
        )
        self.loop_lag = Histogram(
            "ranvier_event_loop_lag_seconds",
            "How late a timer of the event loop was.",
            registry=r,
            buckets=_LAG_BUCKETS,
        )
        self._pools: dict[str, _PoolMetrics] = {}
        self._endings: dict[tuple[str, int, str], Counter] = {}
        self._dispatches: dict[str, Counter] = {}

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def add_collector(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """``collect`` is called for each page."""
        self.registry.register(_Collect(collect))

    def event_handled(self, event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        """Counts decisions; an ``EventSink``."""
        for command in commands:
            if type(command) is Dispatch:
                counter = self._dispatches.get(command.worker_id)
                if counter is None:
                    counter = self._dispatches[command.worker_id] = self.dispatches.labels(command.worker_id)
                counter.inc()
            elif type(command) is Reject:
                self.rejects.labels(command.reason).inc()

    def request_finished(
        self,
        path: str,
        model: str,
        tenant: str,
        worker_id: str,
        status: int,
        ending: Ending,
        queue_seconds: float,
        ttft_seconds: float | None,
        e2e_seconds: float,
        num_prompt_tokens: int | None,
        num_output_tokens: int,
    ) -> None:
        pool = self._pool_of(worker_id) if worker_id else _NO_POOL
        self._ending(pool, status, ending).inc()
        m = self._pools.get(pool) or self._pools.setdefault(pool, _PoolMetrics(self, pool))
        m.queued.observe(queue_seconds)
        if ending != "completed":
            return
        m.e2e.observe(e2e_seconds)
        m.output_tokens.inc(num_output_tokens)
        if num_prompt_tokens:
            m.prompt_tokens.inc(num_prompt_tokens)
        if ttft_seconds is not None:
            m.ttft.observe(ttft_seconds)
            if num_output_tokens > 1:
                m.tpot.observe((e2e_seconds - ttft_seconds) / (num_output_tokens - 1))

    def request_retried(self, worker_id: str, reason: str) -> None:
        self.retries.labels(worker_id, reason).inc()

    def request_refused(self, status: int) -> None:
        self.refused.labels(str(status)).inc()

    def scraped(self, worker_id: str, ok: bool) -> None:
        self.scrapes.labels(worker_id, str(ok).lower()).inc()

    def health_changed(self, worker_id: str, healthy: bool) -> None:
        self.health_changes.labels(worker_id, str(healthy).lower()).inc()

    def policy_swapped(self, pool: str, origin: str, ok: bool) -> None:
        self.swaps.labels(pool, origin, "replaced" if ok else "refused").inc()

    def worker_left(self, worker_id: str) -> None:
        """Drops the worker's children, so that workers that come and go do not add up."""
        self._dispatches.pop(worker_id, None)
        for metric in (self.retries, self.dispatches, self.scrapes, self.health_changes):
            metric.remove_by_labels({"worker": worker_id})

    def _ending(self, pool: str, status: int, ending: Ending) -> Counter:
        key = (pool, status // 100, ending)
        counter = self._endings.get(key)
        if counter is None:
            code = f"{status // 100}xx" if status else "none"
            counter = self._endings[key] = self.requests.labels(pool, code, ending)
        return counter


class _Collect(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def gauge(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """A family read at this moment: (label values, value) pairs."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family


def counter(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """As ``gauge``, for what only grows; ``name`` without ``_total``."""
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, value)
    return family
