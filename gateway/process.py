"""The gateway as a process: starts it, hears signals, and ends it in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvloop

from gateway.config import Config
from gateway.discovery.source import file_versions
from gateway.errors import GatewayError
from gateway.inherited import READY, Inherited
from gateway.machine_code import machine_code
from gateway.server import Gateway, Ports
from gateway.settings import admin_token
from gateway.stuck import exit_when_stuck
from gateway.watchdog import Watchdog

log = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0


def serve(
    config: Config, reread: Callable[[], Config], inherited: Inherited | None = None, file: Path | None = None
) -> None:
    """Runs a gateway until SIGTERM or SIGINT; on SIGHUP, and when ``file`` changes, ``reread`` says what it is to be.

    Args:
        inherited: under a supervisor, which asks by SIGUSR2 to leave the ports to the next process.

    Raises:
        GatewayError: it could not start.
    """
    code = machine_code()
    log.log(logging.WARNING if code.state == "stale" else logging.INFO, "the gateway %s", code.line)
    watchdog = Watchdog(config.policy.budget_seconds, config.policy.kill_seconds)
    with watchdog, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, watchdog, reread, inherited, file))


async def _serve(
    config: Config,
    watchdog: Watchdog,
    reread: Callable[[], Config],
    inherited: Inherited | None,
    file: Path | None,
) -> None:
    stop, hang_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    gateway = Gateway(config, watchdog, inherited, reread)
    if inherited is not None:
        loop.add_signal_handler(signal.SIGUSR2, _hand_over, gateway, stop)
    async with _beating(config, inherited), gateway.running() as ports, asyncio.TaskGroup() as group:
        _announce(config, ports)
        if inherited is not None:
            inherited.tell(READY)
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it
        tasks = [group.create_task(_reload_on(hang_up, gateway))]
        if file is not None and config.server.watch_config:
            tasks.append(group.create_task(_follow(file, hang_up)))
        if config.policy.stuck_seconds:
            tasks.append(group.create_task(exit_when_stuck(config.policy.stuck_seconds)))
        await stop.wait()
        for task in tasks:
            task.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # a second one ends the process at once


def _hand_over(gateway: Gateway, stop: asyncio.Event) -> None:
    gateway.hand_over()
    stop.set()


@asynccontextmanager
async def _beating(config: Config, inherited: Inherited | None) -> AsyncIterator[None]:
    """The supervisor hears that the event loop turns, from before the start to after the end."""
    if inherited is None:
        yield
        return
    seconds = min(_BEAT_SECONDS, config.policy.stuck_seconds / 8 or _BEAT_SECONDS)
    task = asyncio.get_running_loop().create_task(inherited.beat(seconds))
    try:
        yield
    finally:
        task.cancel()


def _announce(config: Config, ports: Ports) -> None:
    facts = {
        "data": f"{'https' if config.tls else 'http'}://{config.server.host}:{ports.data}",
        "admin": f"http://{config.admin.host}:{ports.admin}",
        "workers": len(config.workers) + config.mock.count,
    }
    log.info("gateway started", extra=facts)
    if not config.admin.is_loopback and admin_token(config) is None:
        log.warning("the admin port is reachable from outside and has no token: health and metrics only", extra=facts)


async def _reload_on(hang_up: asyncio.Event, gateway: Gateway) -> None:
    while True:
        await hang_up.wait()
        hang_up.clear()
        try:
            with suppress(GatewayError):  # logged, counted, and what was in force stays
                await gateway.reload()
        except Exception:  # the task boundary: the streams go on
            log.exception("configuration not reloaded")


async def _follow(file: Path, changed: asyncio.Event) -> None:
    versions = file_versions(file)
    await anext(versions)  # as it was read at the start
    async for _ in versions:
        changed.set()
