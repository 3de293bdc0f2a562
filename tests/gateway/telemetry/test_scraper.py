"""The scraper against scripted workers on loopback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.config import ScrapeSection, WorkerSection
from gateway.core.events import Event, MetricsScraped, WorkerHealthChanged, WorkerMetrics
from gateway.telemetry.scraper import Scraper
from tests.support.fake_vllm import FakeVllm, answer, error, silent

QUICK = ScrapeSection(
    interval_seconds=0.02,
    timeout_seconds=0.2,
    health_interval_seconds=0.02,
    health_timeout_seconds=0.2,
    unhealthy_after=2,
)


class Seen:
    """What the scraper told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.joins: list[tuple[WorkerSection, tuple[str, ...], WorkerMetrics | None]] = []
        self.scrapes: list[bool] = []

    def joined(self, worker: WorkerSection, models: tuple[str, ...], metrics: WorkerMetrics | None) -> None:
        self.joins.append((worker, models, metrics))

    def scraped(self, worker_id: str, ok: bool) -> None:
        self.scrapes.append(ok)

    def health_changed(self, worker_id: str, healthy: bool) -> None:
        return

    def healths(self) -> list[bool]:
        return [e.healthy for e in self.events if isinstance(e, WorkerHealthChanged)]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(
    *urls: str, settings: ScrapeSection = QUICK, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[Seen, Scraper]]:
    seen = Seen()
    scraper = Scraper(seen.events.append, clock, seen.joined, settings, seen)
    for url in urls:
        scraper.watch(WorkerSection(url=url, pool="p"))
    try:
        yield seen, scraper
    finally:
        await scraper.close()


async def test_a_worker_joins_at_its_first_answer_with_models_and_sizes() -> None:
    async with FakeVllm(model="llama") as worker, watching(worker.url) as (seen, scraper):
        await seen.until(lambda: any(isinstance(e, MetricsScraped) for e in seen.events))
        ((joined, models, metrics),) = seen.joins
        assert joined.url == worker.url and models == ("llama",)
        assert metrics is not None and metrics.num_requests_running == 0
        scraped = next(e for e in seen.events if isinstance(e, MetricsScraped))
        assert scraped.taken_at <= scraped.time
        assert scraper.sights[joined.worker_id].last_error == ""


async def test_an_unreachable_worker_is_told_once_and_joins_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeVllm() as worker:
        await worker.stop()
        async with watching(worker.url) as (seen, scraper):
            with caplog.at_level(logging.WARNING):
                await seen.until(lambda: len(seen.scrapes) > 4)
            assert [r.getMessage() for r in caplog.records] == ["worker cannot be reached yet; trying on"]
            assert "ClientConnectorError" in next(iter(scraper.sights.values())).last_error
            await worker.listen()
            await seen.until(lambda: seen.joins)


async def test_health_changes_after_so_many_failures_and_comes_back() -> None:
    async with FakeVllm() as worker, watching(worker.url) as (seen, _):
        await seen.until(lambda: seen.joins)
        healthy = worker.routes["/health"]
        worker.routes["/health"] = error(503)
        await seen.until(lambda: seen.healths() == [False])
        worker.routes["/health"] = healthy
        await seen.until(lambda: seen.healths() == [False, True])
        assert len(seen.joins) == 1


def engine(running: int, tokens: int) -> bytes:
    return b"vllm:num_requests_running %d\nvllm:generation_tokens_total %d\n" % (running, tokens)


async def test_an_engine_that_stands_still_is_unhealthy_though_its_health_is_200() -> None:
    settings = QUICK.model_copy(update={"stalled_seconds": 0.15})
    async with FakeVllm() as worker, watching(worker.url, settings=settings) as (seen, scraper):
        worker.routes["/metrics"] = answer(engine(2, 10))
        await seen.until(lambda: seen.healths() == [False])
        (sight,) = scraper.sights.values()
        assert "no counter of its engine moved" in sight.last_error
        before = len(worker.all_requests)
        await seen.until(lambda: len(worker.all_requests) > before + 6)
        assert seen.healths() == [False]
        worker.routes["/metrics"] = answer(engine(2, 11))
        await seen.until(lambda: seen.healths()[:2] == [False, True])


async def test_an_idle_or_a_working_engine_is_healthy() -> None:
    now = [0.0]
    async with (
        FakeVllm() as idle,
        FakeVllm() as busy,
        watching(idle.url, busy.url, clock=lambda: now[0]) as (seen, scraper),
    ):
        idle.routes["/metrics"] = answer(engine(0, 10))
        for tokens in range(6):
            busy.routes["/metrics"] = answer(engine(3, tokens))
            await seen.until(lambda tokens=tokens: scraper.sights[busy.url[7:]].progress == (tokens, 0))
            now[0] += 100.0
        assert seen.healths() == []


async def test_a_worker_that_hangs_is_unhealthy_and_delays_no_other() -> None:
    stuck = answer(delay=30)
    async with FakeVllm() as slow, FakeVllm() as quick, watching(slow.url, quick.url) as (seen, _):
        await seen.until(lambda: len(seen.joins) == 2)
        slow.routes["/health"] = slow.routes["/metrics"] = stuck
        await seen.until(lambda: seen.healths() == [False])
        before = len(quick.all_requests)
        await seen.until(lambda: len(quick.all_requests) > before + 5)


async def test_a_server_without_metrics_and_health_pages_joins_as_well() -> None:
    routes = {"/metrics": error(404), "/health": error(404), "/v1/models": answer(b"what?")}
    async with FakeVllm(routes=routes) as worker, watching(worker.url) as (seen, _):
        await seen.until(lambda: seen.joins)
        assert seen.joins[0][1:] == ((), None)


async def test_models_that_change_are_found() -> None:
    settings = QUICK.model_copy(update={"models_interval_seconds": 0.03})
    async with FakeVllm(model="old") as worker, watching(worker.url, settings=settings) as (seen, _):
        await seen.until(lambda: seen.joins)
        worker.routes["/v1/models"] = answer({"data": [{"id": "old"}, {"id": "adapter"}]})
        await seen.until(lambda: len(seen.joins) == 2)
        worker.routes["/v1/models"] = error(500)
        await asyncio.sleep(0.1)
        assert [models for _, models, _ in seen.joins] == [("old",), ("old", "adapter")]


async def test_a_forgotten_worker_is_not_asked_again() -> None:
    async with FakeVllm() as worker, watching(worker.url) as (seen, scraper):
        await seen.until(lambda: seen.joins)
        await scraper.forget(next(iter(scraper.sights)))
        await asyncio.sleep(0.03)
        before = len(worker.all_requests)
        await asyncio.sleep(0.1)
        assert len(worker.all_requests) == before


async def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with FakeVllm() as worker, watching(worker.url) as (seen, _):
        await seen.until(lambda: seen.joins)


@pytest.mark.parametrize(
    "later",
    [
        b"vllm:generation_tokens_total 900\nprocess_start_time_seconds 200\n",
        b"vllm:generation_tokens_total 3\n",
        b"vllm:generation_tokens_total 3\nprocess_start_time_seconds 100\n",
    ],
    ids=["another process", "no start time", "the same process, its counters back"],
)
async def test_a_worker_that_began_anew_is_told(later: bytes) -> None:
    async with FakeVllm() as worker:
        worker.routes["/metrics"] = answer(b"vllm:generation_tokens_total 700\nprocess_start_time_seconds 100\n")
        async with watching(worker.url) as (seen, _):
            await seen.until(lambda: len(scrapes(seen)) >= 3)
            assert {event.values.num_starts for event in scrapes(seen)} == {0}
            worker.routes["/metrics"] = answer(later)
            await seen.until(lambda: scrapes(seen)[-1].values.num_starts == 1)
            number = len(scrapes(seen))
            await seen.until(lambda: len(scrapes(seen)) >= number + 3)
            assert scrapes(seen)[-1].values.num_starts == 1


async def test_processes_that_answer_by_turns_behind_one_url_begin_once() -> None:
    pages = [
        b"vllm:generation_tokens_total %d\nprocess_start_time_seconds %d\n" % page for page in ((700, 100), (3, 200))
    ]
    async with FakeVllm() as worker:
        worker.routes["/metrics"] = answer(pages[0])
        async with watching(worker.url) as (seen, _):
            for turn in range(1, 9):
                number = len(scrapes(seen))
                await seen.until(lambda number=number: len(scrapes(seen)) >= number + 2)
                worker.routes["/metrics"] = answer(pages[turn % 2])
            assert scrapes(seen)[-1].values.num_starts == 1


def scrapes(seen: Seen) -> list[MetricsScraped]:
    return [event for event in seen.events if isinstance(event, MetricsScraped)]


async def test_a_look_that_waits_for_an_answer_holds_nothing_else_up() -> None:
    """Of one worker the answer never comes; the other is looked at again and again meanwhile."""
    settings = QUICK.model_copy(update={"timeout_seconds": 60.0})
    routes = {"/metrics": silent(), "/health": silent()}
    async with (
        FakeVllm(routes=routes) as hung,
        FakeVllm() as good,
        watching(hung.url, good.url, settings=settings) as (
            seen,
            scraper,
        ),
    ):
        await seen.until(lambda: hung.num_connections)
        number = len(scrapes(seen))
        await seen.until(lambda: len(scrapes(seen)) >= number + 20)
        assert {event.worker_id for event in scrapes(seen)} == {good.url.removeprefix("http://")}
        assert hung.num_connections == 1
        assert [sight.last_error for sight in scraper.sights.values()] == ["", ""]
