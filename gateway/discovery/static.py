"""The workers of the configuration and the command line: one set, which a reload replaces through the membership."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from gateway.config import WorkerSection


class StaticWorkers:
    name = "static"

    def __init__(self, workers: Sequence[WorkerSection]) -> None:
        self._workers = tuple(workers)

    async def snapshots(self) -> AsyncIterator[tuple[WorkerSection, ...]]:
        yield self._workers
