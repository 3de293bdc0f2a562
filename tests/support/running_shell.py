"""A whole gateway inside the test's own event loop, on free loopback ports, and a client of its admin port.

async with FakeVllm() as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
    assert (await shell.admin("GET", "/health/ready")).status_code == 200
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.config import Config
from gateway.config_file import load_config
from gateway.server import Gateway, Ports
from gateway.watchdog import Watchdog

QUICK = {"interval_seconds": 0.05, "health_interval_seconds": 0.05, "unhealthy_after": 2, "timeout_seconds": 1.0}


class Shell:
    def __init__(self, gateway: Gateway, ports: Ports, client: httpx.AsyncClient) -> None:
        self.gateway, self.ports, self._client = gateway, ports, client
        self.reread: Mapping[str, Any] = {}
        """Tables that differ, for a reload."""

    async def admin(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports.admin}{path}"
        return await self._client.request(method, url, json=body if body is not None else {}, headers=headers)

    async def data(self, method: str, path: str) -> httpx.Response:
        return await self._client.request(method, f"http://127.0.0.1:{self.ports.data}{path}")

    async def complete(self, **fields: Any) -> httpx.Response:
        url = f"http://127.0.0.1:{self.ports.data}/v1/completions"
        return await self._client.post(url, json={"prompt": "hello", "max_tokens": 3, **fields})

    async def until(self, condition: Callable[[], object], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 any state of the gateway may be waited for
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_shell(tables: Mapping[str, Any], num_ready: int = 1) -> AsyncIterator[Shell]:
    """Ready with ``num_ready`` workers when the block begins."""
    defaults = {"server": {"host": "127.0.0.1", "port": 0}, "admin": {"port": 0}, "scrape": QUICK}

    def read() -> Config:
        given = {**tables, **shells[0].reread} if shells else tables
        merged = {**given, **{name: {**table, **given.get(name, {})} for name, table in defaults.items()}}
        return load_config(amend=lambda t: t.update(merged))

    shells: list[Shell] = []
    config = read()
    with Watchdog(config.policy.budget_seconds, config.policy.kill_seconds) as watchdog:
        gateway = Gateway(config, watchdog, reread=read)
        async with gateway.running() as ports, httpx.AsyncClient(trust_env=False, timeout=20) as client:
            shell = Shell(gateway, ports, client)
            shells.append(shell)
            await shell.until(lambda: gateway.view.num_ready() >= num_ready)
            yield shell
