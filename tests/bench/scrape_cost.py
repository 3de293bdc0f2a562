"""CPU of one scrape with aiohttp and with httpx, in one process, by turns: ``python -m tests.bench.scrape_cost``.

The worker is another process on loopback that answers with a page as vLLM's, over one kept connection. Both clients
read the whole answer; what is parsed out of it is the same for both and is left out.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import ssl
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import uvloop

SCRAPES = 2_000
TURN = 100
PAGE = b"".join(
    b'vllm:series_%d{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct",le="%d"} %d.0\n' % (n, n % 40, n * 7)
    for n in range(400)
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(PAGE), PAGE)


class Worker(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(ANSWER * data.count(b"\r\n\r\n"))


def serve(listener: socket.socket) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Worker, sock=listener)
        await server.serve_forever()

    asyncio.run(main())


async def turns(url: str) -> dict[str, float]:
    """Microseconds of CPU a scrape, by client."""
    spent = {"aiohttp": 0.0, "httpx": 0.0}
    context = ssl.create_default_context()
    async with aiohttp.ClientSession() as one, httpx.AsyncClient(trust_env=False, verify=context) as other:

        async def with_aiohttp() -> int:
            async with asyncio.timeout(2), one.get(url) as answer:
                return len(await answer.read())

        async def with_httpx() -> int:
            return len((await other.get(url, timeout=2)).content)

        clients: dict[str, Callable[[], Awaitable[int]]] = {"aiohttp": with_aiohttp, "httpx": with_httpx}
        for client in clients.values():
            assert await client() == len(PAGE)
        for _ in range(SCRAPES // TURN):
            for name, client in clients.items():
                before = time.process_time()
                for _ in range(TURN):
                    await client()
                spent[name] += time.process_time() - before
    return {name: seconds / SCRAPES * 1e6 for name, seconds in spent.items()}


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
        worker.start()
        found = uvloop.run(turns(f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"))
        worker.terminate()
        worker.join()
    for name, microseconds in found.items():
        print(f"{name}: {microseconds:.0f} us of CPU a scrape of {len(PAGE)} bytes")


if __name__ == "__main__":
    main()
