"""What the gateway says of itself to Prometheus: names ``ranvier_*``, a registry of its own, bounded labels.

Labels are pools, workers, and words from fixed lists: never a tenant, a session, a path or a model as a client
wrote it. What can be read off live objects (queues, in-flight counts, ages) is read when Prometheus asks, so it is
never stale and costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.core.commands import Command, Dispatch, Reject
from gateway.core.events import Event
from gateway.http.metrics import Ending
from gateway.telemetry.tallies import Buckets, Tally, histogram

_TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_TPOT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_E2E_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 960.0)
_LAG_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_NO_POOL = ""
_STATUSES = frozenset(map(str, (429, *range(500, 512))))
_CODES = {0: "none", 1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


class _PoolTimes:
    """The requests of one pool."""

    __slots__ = ("e2e", "output_tokens", "prompt_tokens", "queued", "tpot", "ttft")

    def __init__(self) -> None:
        self.queued = Buckets(_TTFT_BUCKETS)
        self.ttft = Buckets(_TTFT_BUCKETS)
        self.tpot = Buckets(_TPOT_BUCKETS)
        self.e2e = Buckets(_E2E_BUCKETS)
        self.prompt_tokens = 0
        self.output_tokens = 0


class GatewayMetrics:
    """Everything that is counted. Implements what the data plane, the scraper and the policy files report to.

    Args:
        pool_of: the pool of a worker; empty when it is gone.
        pool_for: the pool that takes requests for a model; empty when none does.
        compiled: ``true``, ``false`` or ``stale``, as ``gateway.machine_code`` says.
    """

    def __init__(
        self,
        pool_of: Callable[[str], str] = lambda worker_id: _NO_POOL,
        pool_for: Callable[[str], str] = lambda model: _NO_POOL,
        compiled: str = "false",
    ) -> None:
        self._pool_of, self._pool_for = pool_of, pool_for
        self._times: dict[str, _PoolTimes] = {}
        self._requests = Tally("ranvier_requests", "Requests to a model that are over.", ["pool", "code", "ending"])
        self._refused = Tally("ranvier_refused_requests", "Malformed, too large or forbidden.", ["code"])
        self._retries = Tally("ranvier_retries", "Dispatches that failed before a byte.", ["worker", "reason"])
        self._dispatches = Tally("ranvier_dispatches", "Requests sent to a worker.", ["worker"])
        self._rejects = Tally("ranvier_rejects", "Requests the dispatcher turned away.", ["reason"])
        self._scrapes = Tally("ranvier_scrapes", "Of a worker's metrics page.", ["worker", "ok"])
        self._health = Tally("ranvier_worker_health_changes", "By new state.", ["worker", "healthy"])
        self._swaps = Tally("ranvier_policy_swaps", "By origin and outcome.", ["pool", "origin", "outcome"])
        self._reloads = Tally("ranvier_config_reloads", "Of the configuration.", ["outcome"])
        self._of_workers = (self._retries, self._dispatches, self._scrapes, self._health)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge("ranvier_build_info", "Always 1.", ["version", "compiled"], registry=self.registry)
        build.labels(__version__, compiled).set(1)
        self.loop_lag = Histogram(
            "ranvier_event_loop_lag_seconds",
            "How late a timer of the event loop was.",
            registry=self.registry,
            buckets=_LAG_BUCKETS,
        )
        self.add_collector(self._collect)

    def page(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def add_collector(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """``collect`` is called for each page."""
        self.registry.register(_Collect(collect))

    def event_handled(self, event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        """Counts decisions; an ``EventSink``."""
        for command in commands:
            kind = type(command)
            if kind is Dispatch:
                self._dispatches.add((command.worker_id,))  # type: ignore[union-attr]
            elif kind is Reject:
                self._rejects.add((command.reason,))  # type: ignore[union-attr]

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
        pool = (worker_id and self._pool_of(worker_id)) or self._pool_for(model)
        self._requests.add((pool, _CODES.get(status // 100, "other"), ending))
        times = self._times.get(pool)
        if times is None:
            times = self._times[pool] = _PoolTimes()
        times.queued.observe(queue_seconds)
        if ending != "completed":
            return
        times.e2e.observe(e2e_seconds)
        times.output_tokens += num_output_tokens
        times.prompt_tokens += num_prompt_tokens or 0
        if ttft_seconds is not None:
            times.ttft.observe(ttft_seconds)
            if num_output_tokens > 1:
                times.tpot.observe((e2e_seconds - ttft_seconds) / (num_output_tokens - 1))

    def request_retried(self, worker_id: str, reason: str) -> None:
        word, _, code = reason.rpartition("_")
        if code.isdigit() and code not in _STATUSES:  # a worker's word: anything
            reason = f"{word}_other"
        self._retries.add((worker_id, reason))

    def request_refused(self, status: int) -> None:
        self._refused.add((str(status),))

    def scraped(self, worker_id: str, ok: bool) -> None:
        self._scrapes.add((worker_id, str(ok).lower()))

    def health_changed(self, worker_id: str, healthy: bool) -> None:
        self._health.add((worker_id, str(healthy).lower()))

    def policy_swapped(self, pool: str, origin: str, ok: bool) -> None:
        self._swaps.add((pool, origin, "replaced" if ok else "refused"))

    def config_reloaded(self, ok: bool) -> None:
        self._reloads.add(("reloaded" if ok else "refused",))

    def worker_left(self, worker_id: str) -> None:
        """Drops the worker's counts, so that workers that come and go do not add up."""
        for tally in self._of_workers:
            tally.forget("worker", worker_id)

    def _collect(self) -> Iterable[Metric]:
        for tally in (self._requests, self._refused, self._rejects, self._swaps, self._reloads, *self._of_workers):
            yield tally.collect()
        times = self._times.items()
        yield histogram(
            "ranvier_request_queue_seconds", "Arrival to last dispatch.", "pool", ((p, t.queued) for p, t in times)
        )
        yield histogram(
            "ranvier_request_ttft_seconds", "Arrival to first content token.", "pool", ((p, t.ttft) for p, t in times)
        )
        yield histogram(
            "ranvier_request_tpot_seconds", "Each token after the first.", "pool", ((p, t.tpot) for p, t in times)
        )
        yield histogram(
            "ranvier_request_e2e_seconds", "Arrival to the answer's end.", "pool", ((p, t.e2e) for p, t in times)
        )
        kinds = (
            ((p, kind), n) for p, t in times for kind, n in (("prompt", t.prompt_tokens), ("output", t.output_tokens))
        )
        yield counter("ranvier_tokens", "Of completed requests.", ["pool", "kind"], kinds)


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
