"""Troubles of other gateways between the gateway and its workers' pages, shown on a whole gateway over real sockets."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from tests.support.fake_vllm import FakeVllm, error, silent
from tests.support.running_shell import running_shell

SLOW_TO_CHECK = '''
"""A policy whose check takes a while."""


def create(rng):
    return Slow(sum(i % 7 for i in range(100_000) for _ in range(10)))


class Slow:
    def __init__(self, number):
        self.number = number

    def route(self, request, candidates, pool):
        return candidates[0]
'''


async def test_metrics_that_stop_cost_no_client_an_error_and_are_shown_as_old() -> None:
    """Counts of its own go on; a scrape that gets no answer holds back no request."""
    async with FakeVllm() as one, FakeVllm() as two:
        workers = [{"url": worker.url, "pool": "p"} for worker in (one, two)]
        tables = {"worker": workers, "pool": [{"name": "p", "policies": ["head_room"]}]}
        async with running_shell(tables, num_ready=2) as shell:
            assert (await shell.complete()).status_code == 200
            for worker in (one, two):
                worker.routes["/metrics"] = error(503)
            seen = one.url.removeprefix("http://")

            async def age() -> float:
                rows = (await shell.admin("GET", "/admin/workers")).json()["workers"]
                return next(float(row["metrics_age_seconds"] or math.inf) for row in rows if row["worker_id"] == seen)

            async with asyncio.timeout(20):
                while await age() < 0.5:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            before = len(one.requests), len(two.requests)
            answers = await asyncio.gather(*(shell.complete() for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            served = {worker: len(w.requests) - n for worker, w, n in zip("ab", (one, two), before, strict=True)}
            assert min(served.values()) > 0


async def test_health_answers_while_policies_are_checked_and_workers_are_added(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_CHECK)
    routes = {"/metrics": silent(), "/health": silent()}
    async with (
        FakeVllm() as worker,
        FakeVllm(routes=routes) as hung,
        running_shell({"worker": [{"url": worker.url}]}) as shell,
    ):
        specs = {"specs": f"{tmp_path}/slow.py"}
        loading = asyncio.ensure_future(shell.admin("POST", "/admin/policies/default/load", specs))
        assert (await shell.admin("POST", "/admin/workers", {"url": hung.url})).status_code == 201
        num_answered = 0
        while not loading.done():
            for path in ("/health/live", "/health/ready"):
                assert (await shell.admin("GET", path)).status_code == 200
            num_answered += not loading.done()
        assert num_answered >= 3, "health was asked while the check ran"
        assert loading.result().status_code == 200
