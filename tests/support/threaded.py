"""A fake vLLM in a thread of its own, for tests of clients that do not run on asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fake_vllm import FakeVllm, Script


@contextmanager
def threaded_vllm(script: Script | None = None) -> Iterator[FakeVllm]:
    """Serving on entry; stopped, and checked for failed behaviours, on exit."""
    ready, server = threading.Event(), FakeVllm(script)
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with server:
            ready.set()
            await stopped.wait()

    def work() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work, name="fake vLLM")
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
    if failures:
        raise failures[0]
