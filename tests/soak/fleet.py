"""Mock workers as processes of their own, and what may befall them."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.support.processes import free_port


class MockProcess:
    """One mock worker on a port that it keeps over all its lives; ``records`` are those of all of them."""

    def __init__(self, folder: Path, number: int) -> None:
        self.port = free_port()
        self.records = folder / f"worker-{number}.jsonl"
        self._log = folder / f"worker-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.busy = False
        """Something is happening to it."""
        self.was_killed = False
        """Records of its last moments may be missing."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker_id(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway.cli", "mock-worker", "--port", str(self.port), "--speed", "4"]
        command += ["--records", str(self.records), "--max-num-queued-reqs", "20", "--max-num-seqs", "16"]
        with self._log.open("ab") as out:
            self._process = subprocess.Popen([*command, "--exit-with-parent"], stdout=out, stderr=out)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        self.signal(number)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)


async def kill(worker: MockProcess, rng: random.Random) -> None:
    worker.was_killed = True
    await worker.end(signal.SIGKILL)
    await asyncio.sleep(rng.uniform(0.2, 2))
    worker.start()


async def restart(worker: MockProcess, rng: random.Random) -> None:
    await worker.end(signal.SIGTERM)
    await asyncio.sleep(rng.uniform(0, 0.5))
    worker.start()


async def hang(worker: MockProcess, rng: random.Random) -> None:
    """Accepting (the kernel does) and silent."""
    worker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.uniform(1, 6))
    finally:
        worker.signal(signal.SIGCONT)


async def slow(worker: MockProcess, rng: random.Random) -> None:
    for _ in range(rng.randrange(10, 30)):
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(0.09)
        worker.signal(signal.SIGCONT)
        await asyncio.sleep(0.03)


FAULTS = (kill, restart, hang, slow)


async def misfortunes(workers: list[MockProcess], rng: random.Random, happened: Counter[str]) -> None:
    """One after another, at most one at a time on each worker, until it is cancelled; then all are well again."""

    async def befall(worker: MockProcess) -> None:
        fault = rng.choice(FAULTS)
        happened[fault.__name__] += 1
        worker.busy = True
        await fault(worker, rng)
        worker.busy = False

    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(rng.uniform(0.3, 2))
                if well := [worker for worker in workers if not worker.busy]:
                    group.create_task(befall(rng.choice(well)))
    for worker in workers:
        if worker.busy:
            await worker.end(signal.SIGKILL)
            worker.was_killed = True
            worker.start()
            worker.busy = False
