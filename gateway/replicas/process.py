"""Replicas as processes of this machine, from the command template of their variant.

A replica is a worker from the moment its process starts: it joins when it answers. It is drained before it is
stopped, and one that ends by itself is taken out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass

from gateway.config import ReplicasSection, WorkerSection
from gateway.core.commands import SetReplicas
from gateway.discovery.membership import Membership

log = logging.getLogger(__name__)

_SOURCE = "replicas"
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class Replica:
    worker: WorkerSection
    process: asyncio.subprocess.Process
    stopping: bool = False


class ProcessReplicas:
    """Args: templates: by (pool, variant). A variant without a command is only logged."""

    def __init__(self, membership: Membership, templates: Mapping[tuple[str, str], ReplicasSection]) -> None:
        self._membership, self.templates = membership, templates
        self._replicas: dict[tuple[str, str], list[Replica]] = {}
        self._wanted: dict[tuple[str, str], int] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def set_replicas(self, command: SetReplicas) -> None:
        """Begins to bring the variant to that many; returns at once."""
        key = (command.pool, command.variant)
        facts = {"pool": command.pool, "variant": command.variant, "replicas": command.num_replicas}
        template = self.templates.get(key)
        if template is None or not template.command:
            log.warning("replicas wanted, but the variant has no command to start one", extra=facts)
            return
        log.info("replicas wanted", extra=facts)
        self._wanted[key] = command.num_replicas
        self._spawn(self._reconcile(key, template))

    async def close(self) -> None:
        """Stops every replica at once, without draining."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        running = [replica for replicas in self._replicas.values() for replica in replicas]
        await asyncio.gather(*(_end(replica.process) for replica in running))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reconcile(self, key: tuple[str, str], template: ReplicasSection) -> None:
        async with self._lock:
            replicas = self._replicas.setdefault(key, [])
            running = [replica for replica in replicas if not replica.stopping]
            own_target = max(0, self._wanted[key] - self._num_others(key))
            for replica in reversed(running[own_target:]):
                replica.stopping = True
                self._spawn(self._stop(key, replica))
            for _ in range(own_target - len(running)):
                replicas.append(await self._start(key, template))
                self._spawn(self._await_end(key, replicas[-1]))

    def _num_others(self, key: tuple[str, str]) -> int:
        """Workers of the variant that were not started here: they count, and are not ours to stop."""
        members = self._membership.members.values()
        return sum((m.worker.pool, m.worker.variant) == key and m.source != _SOURCE for m in members)

    async def _start(self, key: tuple[str, str], template: ReplicasSection) -> Replica:
        self._number += 1
        port = _free_port()
        command = [w.replace("{port}", str(port)).replace("{replica}", str(self._number)) for w in template.command]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.replicas.leash", str(os.getpid()), *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        worker = WorkerSection(url=f"http://127.0.0.1:{port}", pool=key[0], variant=key[1])
        log.info("replica started", extra={"worker": worker.worker_id, "pid": process.pid})
        self._membership.add(worker, source=_SOURCE, replica=True)
        return Replica(worker, process)

    async def _stop(self, key: tuple[str, str], replica: Replica) -> None:
        await self._membership.remove(replica.worker.worker_id)
        await _end(replica.process)

    async def _await_end(self, key: tuple[str, str], replica: Replica) -> None:
        status = await replica.process.wait()
        self._replicas[key].remove(replica)
        facts = {"worker": replica.worker.worker_id, "status": status}
        if replica.stopping:
            log.info("replica stopped", extra=facts)
        else:
            log.error("replica ended by itself", extra=facts)
            if replica.worker.worker_id in self._membership.members:
                await self._membership.remove(replica.worker.worker_id)


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL for its whole group when that is not enough."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
