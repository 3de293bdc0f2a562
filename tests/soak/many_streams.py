"""Two bounds on memory, measured on a gateway process of its own.

``python -m tests.soak.many_streams [--streams 5000] [--megabytes 200]``: that many slow streams at once through one
process, all complete, and RSS a stream; then one long stream to a client that reads 100 KB/s, and how RSS grows.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.soak.soak import Footprint, end_of
from tests.support.fake_vllm import FakeVllm, flood, stream
from tests.support.processes import RunningGateway, running_gateway
from tests.support.running_plane import Client, stream_chat

CHUNKS, GAP = 12, 2.0
READ_BYTES_PER_SECOND = 100_000
CONNECTING = 100
"""Streams begun at a time, so that no listen queue overflows."""


async def one_stream(gateway: RunningGateway, number: int, begin: asyncio.Semaphore) -> str | None:
    async with begin:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(stream_chat(f"x-request-id: many-{number}"))
    try:
        return end_of(await Client(reader, writer).receive(600))
    finally:
        writer.close()


async def many_streams(folder: Path, count: int) -> tuple[int, Footprint, Footprint]:
    """How many were complete, and the footprint before and at the fullest."""
    async with FakeVllm(stream(CHUNKS, gap=GAP)) as one, FakeVllm(stream(CHUNKS, gap=GAP)) as two:
        with ExitStack() as stack:
            urls = f"{one.url},{two.url}"
            gateway = await asyncio.to_thread(stack.enter_context, running_gateway(folder, "--worker", urls))
            before = fullest = await asyncio.to_thread(Footprint.of, gateway)
            begin = asyncio.Semaphore(CONNECTING)
            tasks = [asyncio.ensure_future(one_stream(gateway, number, begin)) for number in range(count)]
            while not all(task.done() for task in tasks):
                now = await asyncio.to_thread(Footprint.of, gateway)
                fullest = max(fullest, now, key=lambda f: (f.num_inflight, f.rss_mib))
                await asyncio.sleep(0.5)
            return sum(task.result() == "whole" for task in tasks), before, fullest


async def slow_reader(folder: Path, megabytes: int, seconds: float) -> tuple[float, float, float]:
    """RSS in MiB before and at its highest, and MB the worker could send, of a client that reads 100 KB/s."""
    async with FakeVllm(flood(megabytes * 1_000_000)) as worker:
        with ExitStack() as stack:
            gateway = await asyncio.to_thread(stack.enter_context, running_gateway(folder, "--worker", worker.url))
            before = await asyncio.to_thread(Footprint.of, gateway)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=READ_BYTES_PER_SECOND // 10)
            writer.write(stream_chat())
            highest = 0.0
            until = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < until:
                await reader.read(READ_BYTES_PER_SECOND // 10)
                await asyncio.sleep(0.1)
                highest = max(highest, (await asyncio.to_thread(Footprint.of, gateway)).rss_mib)
            sent = worker.requests[0].sent_bytes / 1e6
            writer.transport.abort()
            return before.rss_mib, highest, sent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the slow client reads")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        whole, before, full = uvloop.run(many_streams(Path(folder), options.streams))
        each = (full.rss_mib - before.rss_mib) * 1024 / max(1, full.num_inflight)
        print(f"{whole} of {options.streams} streams whole; {full.num_inflight} at once: {before.rss_mib:.0f} to "
              f"{full.rss_mib:.0f} MiB, {each:.1f} KiB a stream")  # fmt: skip
        first, highest, sent = uvloop.run(slow_reader(Path(folder), options.megabytes, options.seconds))
        print(f"a stream of {options.megabytes} MB read at 100 KB/s for {options.seconds:.0f} s: RSS {first:.1f} to "
              f"{highest:.1f} MiB; the worker could send {sent:.1f} MB")  # fmt: skip
    return int(whole != options.streams)


if __name__ == "__main__":
    raise SystemExit(main())
