"""The supervisor's own hard moments: signals while a process is made, and processes that cannot be."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import StartError
from gateway.listeners import listeners
from gateway.supervisor import Supervisor, _Child

TOO_LONG = ["x" * 1_000_000]
"""The kernel starts no process with such an argument."""


def _loopbacks() -> list[str]:
    sockets = listeners("", 0, "--port")
    names = ["::1" if one.family == socket.AF_INET6 else "127.0.0.1" for one in sockets]
    for one in sockets:
        one.close()
    return names


ADDRESSES = _loopbacks()

STANDS_STILL = """
import asyncio, os, sys, time
from gateway.stuck import exit_when_stuck

async def main():
    task = asyncio.ensure_future(exit_when_stuck(2.0))
    await asyncio.sleep(0.1)
    os.write(int(sys.argv[1]), b"R.")
    time.sleep(60)

asyncio.run(main())
"""


class Counted(Supervisor):
    looks = 0

    def _look_at(self, child: _Child) -> None:
        self.looks += 1
        super()._look_at(child)


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Counted]:
    data, admin = listeners("127.0.0.1", 0, "--port"), listeners("127.0.0.1", 0, "--admin-port")
    (tmp_path / "gateway.toml").write_text("[server]\nhost = '127.0.0.1'\n")
    made = Counted(["serve", "--config", str(tmp_path / "gateway.toml")], data, admin, str(tmp_path), 0.0)
    yield made
    made._begin_stop()
    await asyncio.gather(*(child.process.wait() for child in made._children))
    await asyncio.gather(*made._tasks)


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def sleeping() -> _Child:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    return _Child(process, time.monotonic(), time.monotonic())


async def test_one_that_ends_itself_for_standing_still_counts_as_stuck(supervisor: Counted) -> None:
    """The end of its pipe is no beat."""
    supervisor._stuck_seconds = 2.0
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STANDS_STILL, str(writing)), pass_fds=(writing,), stderr=asyncio.subprocess.DEVNULL
    )
    os.close(writing)
    child = _Child(process, time.monotonic(), time.monotonic())
    supervisor._listen_to(child, reading)
    async with asyncio.timeout(30):
        assert await supervisor._end_of(child) == "stuck"
    assert (process.returncode, child.killed_as_stuck) == (1, False)


async def test_sigterm_while_a_process_is_made_reaches_it(supervisor: Counted) -> None:
    starting = asyncio.ensure_future(supervisor._start(None))
    await asyncio.sleep(0)
    assert not supervisor._children
    supervisor._begin_stop()
    child = await starting
    async with asyncio.timeout(30):
        await child.process.wait()


async def test_sighup_waits_until_the_process_is_ready(supervisor: Counted, capfd: pytest.CaptureFixture[str]) -> None:
    child = supervisor._child = await supervisor._start(None)
    supervisor._hang_up()
    said = ""
    async with asyncio.timeout(30):
        while "configuration reloaded" not in said and child.process.returncode is None:
            await asyncio.sleep(0.05)
            said += capfd.readouterr().err
    assert child.process.returncode is None
    assert child.ready.is_set()


async def test_a_next_process_that_was_asked_for_is_not_looked_for_again_and_again_while_it_stops(
    supervisor: Counted,
) -> None:
    child = await sleeping()
    supervisor._asked.set()
    supervisor._begin_stop()
    ending = asyncio.ensure_future(supervisor._end_of(child))
    await asyncio.sleep(0.1)
    child.process.kill()
    assert await ending == "crashed"
    assert supervisor.looks <= 1


async def test_where_no_next_process_can_be_made_the_one_before_runs_on(supervisor: Counted) -> None:
    child = await sleeping()
    supervisor._arguments = TOO_LONG
    before = num_open()
    assert await supervisor._replaced(child) is child
    assert num_open() == before
    assert supervisor.restarts["asked"] == 0
    assert child.process.returncode is None
    child.process.kill()
    await child.process.wait()


async def test_where_no_process_can_be_made_it_is_tried_on(
    supervisor: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    child = await sleeping()
    child.process.kill()
    await child.process.wait()
    works, supervisor._arguments = supervisor._arguments, TOO_LONG
    with caplog.at_level(logging.ERROR):
        trying = asyncio.ensure_future(supervisor._next(child, "crashed", 0))
        async with asyncio.timeout(30):
            while "cannot be started; trying on" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        supervisor._arguments = works
        following = await trying
    assert following is not None and following.process.returncode is None
    assert supervisor.restarts == {"crashed": 1}


async def test_where_the_first_cannot_be_made_it_ends_with_the_reason(supervisor: Counted) -> None:
    supervisor._arguments = TOO_LONG
    with pytest.raises(StartError, match="cannot be started: Argument list too long"):
        await supervisor._first()


@pytest.mark.skipif(not socket.has_ipv6 or len(ADDRESSES) < 2, reason="this machine has no IPv6 loopback")
async def test_the_process_serves_every_address_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[event_log]\nenabled = false\n")
    data, admin = listeners("", 0, "--port"), listeners("127.0.0.1", 0, "--admin-port")
    arguments = ["serve", "--config", str(tmp_path / "gateway.toml")]
    made = Supervisor(arguments, data, admin, str(tmp_path / "state"), 0.0)
    child = await made._first()
    try:
        for listener, host in zip(data, ADDRESSES, strict=True):
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection(host, listener.getsockname()[1])
                writer.write(b"GET /v1/models HTTP/1.0\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.")
                writer.close()
    finally:
        made._begin_stop()
        await child.process.wait()
        await asyncio.gather(*made._tasks)
