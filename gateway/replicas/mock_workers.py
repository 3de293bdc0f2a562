"""The mock workers of ``gateway serve --mock N``: one process, started first and gone when the gateway is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import orjson

from gateway.config import MockSection
from gateway.errors import StartError, one_line

log = logging.getLogger(__name__)

_START_SECONDS = 30.0
_STOP_SECONDS = 3.0


@asynccontextmanager
async def mock_workers(settings: MockSection) -> AsyncIterator[tuple[str, ...]]:
    """The URLs of ``settings.count`` running mock workers. StartError when they do not come up."""
    if settings.count == 0:
        yield ()
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.mockworker", *_options(settings)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    relay: asyncio.Task[None] | None = None
    try:
        urls = await _ready(process)
        relay = asyncio.get_running_loop().create_task(_relay(process))
        log.info("mock workers started", extra={"count": len(urls), "pid": process.pid})
        yield urls
    finally:
        if relay:
            relay.cancel()
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Time to write what the workers recorded, then none."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()


def _options(settings: MockSection) -> list[str]:
    options = ["--count", str(settings.count), "--port", "0", "--speed", repr(settings.speed), "--exit-with-parent"]
    if settings.profile:
        options += ["--profile", settings.profile]
    return [*options, *settings.arguments]


async def _ready(process: asyncio.subprocess.Process) -> tuple[str, ...]:
    assert process.stdout and process.stderr  # noqa: S101 both are pipes
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError:
        raise StartError(f"the mock workers were not ready within {_START_SECONDS:g} s") from None
    try:
        return tuple(orjson.loads(line)["urls"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = (await process.stderr.read()).decode(errors="replace").splitlines() or ["they said nothing"]
        why = said[-1].rpartition("error: ")[2]  # wrong options: the usage stands before it
        raise StartError(f"the mock workers did not start: {one_line(why)}") from None


async def _relay(process: asyncio.subprocess.Process) -> None:
    """What the process complains of, and its end, go to the gateway's log."""
    assert process.stderr  # noqa: S101 it is a pipe
    async for line in process.stderr:
        log.warning("mock workers: %s", one_line(line.decode(errors="replace")))
    log.error("the mock workers ended", extra={"status": await process.wait()})
