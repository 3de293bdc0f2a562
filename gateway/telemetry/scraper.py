"""Looks at every worker from time to time: its metrics, its health, its models.

Each worker has one task, so a worker is never scraped twice at once and a slow one delays nobody. What is
seen becomes events; nothing here decides. A worker that does not answer is tried again for as long as it
is meant to exist.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

import aiohttp
import orjson

from gateway.config import ScrapeSection, WorkerSection
from gateway.core.events import Event, MetricsScraped, WorkerHealthChanged, WorkerMetrics
from gateway.errors import one_line
from gateway.telemetry.vllm_metrics import engine_progress, parse_vllm_metrics, process_began_at

log = logging.getLogger(__name__)


class ScrapeMetrics(Protocol):
    """What the scraper counts."""

    def scraped(self, worker_id: str, ok: bool) -> None: ...
    def health_changed(self, worker_id: str, healthy: bool) -> None: ...


class JoinListener(Protocol):
    def __call__(self, worker: WorkerSection, models: tuple[str, ...], metrics: WorkerMetrics | None) -> None:
        """Called at a watched worker's first answer, and when its models are others than the last time."""


@dataclass(slots=True)
class Sight:
    """What is known of one worker from looking at it."""

    worker: WorkerSection
    joined: bool = False
    healthy: bool = False
    models: tuple[str, ...] = ()
    last_metrics_at: float | None = None
    """Runner's monotonic clock; None before the first."""
    last_error: str = ""
    """Why the last look failed; empty when it did not."""
    failures: int = 0
    successes: int = 0
    stalled: bool = False
    """Its engine stands still, whatever its ``/health`` says."""
    began_at: float | None = None
    """When its youngest process began, as far as it says: several may answer behind one URL, by turns."""
    page_began_at: float | None = None
    """When that process began which answered last; None when it did not say."""
    num_starts: int = 0
    """Times it was seen to have begun anew: a younger process answers, or the counters of the same one went back."""
    progress: tuple[float | None, int] = (None, 0)
    moved_at: float = 0.0
    """Since when ``progress`` is what it is, or no request runs."""
    next_health_at: float = 0.0
    next_models_at: float = 0.0
    warned: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class _Page(NamedTuple):
    status: int
    body: bytes


class Scraper:
    """Owns one task for each watched worker. Made on the event loop.

    Its client is aiohttp's, at a sixth of the CPU of httpx's (docs/adr/0022): a hundred workers are scraped from the
    loop that serves.

    Args:
        submit: takes the events.
        clock: the runner's monotonic clock, seconds.
        joined: told of each worker's first answer.
        rng: spreads the scrapes of many workers over the interval.
        tls: for https workers; None: the system's authorities.
        tokens_seen: how many have come from the worker so far.
    """

    def __init__(
        self,
        submit: Callable[[Event], None],
        clock: Callable[[], float],
        joined: JoinListener,
        settings: ScrapeSection,
        metrics: ScrapeMetrics,
        rng: Random | None = None,
        tls: ssl.SSLContext | None = None,
        tokens_seen: Callable[[str], int] = lambda worker_id: 0,
    ) -> None:
        self._tokens_seen = tokens_seen
        self._submit, self._clock, self._joined = submit, clock, joined
        self.settings, self._metrics, self._rng = settings, metrics, rng or Random()
        connector = aiohttp.TCPConnector(limit=0, force_close=False, ssl=tls or True)
        self._session = aiohttp.ClientSession(connector=connector, headers={"user-agent": "ranvier-gateway"})
        self.sights: dict[str, Sight] = {}

    def watch(self, worker: WorkerSection) -> None:
        sight = Sight(worker)
        self.sights[worker.worker_id] = sight
        loop = asyncio.get_running_loop()
        sight.task = loop.create_task(self._follow(sight), name=f"scrape {worker.worker_id}")

    async def forget(self, worker_id: str) -> None:
        """Stops looking at the worker; no event about it follows."""
        sight = self.sights.pop(worker_id, None)
        if sight and sight.task:
            sight.task.cancel()
            await asyncio.wait([sight.task])

    async def close(self) -> None:
        for worker_id in list(self.sights):
            await self.forget(worker_id)
        await self._session.close()

    async def _follow(self, sight: Sight) -> None:
        while True:
            try:
                await self._look(sight)
            except Exception:  # the task boundary: a fault here must not end the watch of a worker
                log.exception("looking at a worker failed", extra={"worker": sight.worker.worker_id})
            await asyncio.sleep(self.settings.interval_seconds * self._rng.uniform(0.9, 1.1))

    async def _look(self, sight: Sight) -> None:
        values = await self._scrape(sight)
        if values is None or not sight.healthy or self._clock() >= sight.next_health_at:
            await self._check_health(sight)
            sight.next_health_at = self._clock() + self.settings.health_interval_seconds
        if sight.healthy and (not sight.joined or self._clock() >= sight.next_models_at):
            await self._read_models(sight, values)

    async def _read_models(self, sight: Sight, values: WorkerMetrics | None) -> None:
        """Joins it, or joins it anew when adapters were loaded or another model is served there by now."""
        models = sight.worker.models or await self._models(sight) or sight.models
        sight.next_models_at = self._clock() + self.settings.models_interval_seconds
        if not sight.joined or models != sight.models:
            sight.joined, sight.models = True, models
            self._joined(sight.worker, models, values)

    async def _scrape(self, sight: Sight) -> WorkerMetrics | None:
        worker_id = sight.worker.worker_id
        answer = await self._get(sight, "/metrics", self.settings.timeout_seconds)
        ok = answer is not None and answer.status == 200
        self._metrics.scraped(worker_id, ok)
        if answer is None or not ok:
            return None
        taken_at = self._clock()
        values = parse_vllm_metrics(answer.body)
        sight.last_metrics_at = taken_at
        values.num_starts = self._starts(sight, answer.body)
        self._feel_pulse(sight, answer.body, values.num_requests_running, taken_at)
        if sight.joined:
            self._submit(MetricsScraped(self._clock(), worker_id, values, taken_at))
        return values

    @staticmethod
    def _starts(sight: Sight, page: bytes) -> int:
        """Before ``_feel_pulse``, which remembers the counters. They count unless another process gave the page before:
        of several that answer by turns they go back at every other look. Below a server that did not begin anew an
        engine may: they go back under the same start."""
        steps, began_at = engine_progress(page), process_began_at(page)
        before, youngest = sight.progress[0], sight.began_at
        younger = began_at is not None and youngest is not None and began_at > youngest
        comparable = None in (began_at, sight.page_began_at) or began_at == sight.page_began_at
        if younger or (comparable and steps is not None and before is not None and steps < before):
            sight.num_starts += 1
            log.warning("worker began anew", extra={"worker": sight.worker.worker_id, "starts": sight.num_starts})
        sight.began_at = max((at for at in (began_at, youngest) if at is not None), default=None)
        sight.page_began_at = began_at
        return sight.num_starts

    def _feel_pulse(self, sight: Sight, page: bytes, num_running: int | None, now: float) -> None:
        """An engine that hangs answers /health with 200 (vllm #38157): its counters tell."""
        progress = engine_progress(page), self._tokens_seen(sight.worker.worker_id)
        limit = self.settings.stalled_seconds
        if not num_running or progress[0] is None or progress != sight.progress:
            sight.progress, sight.moved_at, sight.stalled = progress, now, False
        elif 0 < limit < now - sight.moved_at and not sight.stalled:
            sight.stalled = True
            sight.last_error = f"{num_running} requests run, and no counter of its engine moved for {limit:g} s"
            if sight.healthy:
                self._set_health(sight, False)

    async def _check_health(self, sight: Sight) -> None:
        answer = await self._get(sight, "/health", self.settings.health_timeout_seconds)
        if answer is not None and answer.status >= 500:
            sight.last_error = f"/health answered {answer.status}"
        if answer is not None and answer.status < 500:  # other servers than vLLM may have no /health: 404
            self._succeeded(sight)
        else:
            self._failed(sight)

    def _succeeded(self, sight: Sight) -> None:
        if sight.stalled:
            return
        sight.failures, sight.last_error = 0, ""
        sight.successes += 1
        if not sight.healthy and sight.successes >= (self.settings.healthy_after if sight.joined else 1):
            self._set_health(sight, True)

    def _failed(self, sight: Sight) -> None:
        sight.successes = 0
        sight.failures += 1
        if not sight.joined and not sight.warned:
            sight.warned = True
            log.warning(
                "worker cannot be reached yet; trying on",
                extra={"worker": sight.worker.worker_id, "url": sight.worker.url, "error": sight.last_error},
            )
        if sight.healthy and sight.failures >= self.settings.unhealthy_after:
            self._set_health(sight, False)

    def _set_health(self, sight: Sight, healthy: bool) -> None:
        sight.healthy, sight.next_models_at = healthy, 0.0
        worker_id = sight.worker.worker_id
        self._metrics.health_changed(worker_id, healthy)
        if sight.joined:
            level = logging.INFO if healthy else logging.WARNING
            log.log(
                level,
                "worker health changed",
                extra={"worker": worker_id, "healthy": healthy, "error": sight.last_error},
            )
            self._submit(WorkerHealthChanged(self._clock(), worker_id, healthy))

    async def _models(self, sight: Sight) -> tuple[str, ...]:
        """Served names, adapters included; empty when the worker does not say."""
        answer = await self._get(sight, "/v1/models", self.settings.health_timeout_seconds)
        if answer is None or answer.status != 200:
            return ()
        try:
            return tuple(str(model["id"]) for model in orjson.loads(answer.body)["data"])
        except (ValueError, KeyError, TypeError):
            return ()

    async def _get(self, sight: Sight, path: str, seconds: float) -> _Page | None:
        """None when there was no whole answer in time; ``last_error`` then says why."""
        key = sight.worker.api_key
        headers = {"authorization": f"Bearer {key}"} if key else None
        try:
            async with asyncio.timeout(seconds), self._session.get(sight.worker.url + path, headers=headers) as answer:
                return _Page(answer.status, await answer.read())
        except TimeoutError:
            sight.last_error = f"no answer to {path} within {seconds:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            sight.last_error = one_line(f"{type(error).__name__}: {error}", 200)
        return None
