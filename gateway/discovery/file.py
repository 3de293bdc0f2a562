"""Workers from a TOML or JSON file of ``[[worker]]`` tables, followed for changes.

A file that cannot be used changes nothing: the last good set stands, and the reason is logged and kept.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from gateway.config import WorkerSection
from gateway.config_file import read_tables, validated
from gateway.config_values import Section
from gateway.discovery.source import file_versions
from gateway.errors import ConfigError

log = logging.getLogger(__name__)


class WorkersFile(Section):
    worker: tuple[WorkerSection, ...]


class FileWorkers:
    """Args: path: the file; pools: names of the pools a worker may say; the first is the default if it is alone."""

    name = "file"

    def __init__(self, path: Path, pools: Sequence[str]) -> None:
        self._path, self._pools = path, tuple(pools)
        self.last_error = ""
        """Why the file as it is now is not in use; empty when it is."""

    async def snapshots(self) -> AsyncIterator[tuple[WorkerSection, ...]]:
        async for _ in file_versions(self._path):
            try:
                workers = read_workers(self._path, self._pools)
            except ConfigError as error:
                self.last_error = str(error)
                log.error("workers file not used; the last good set stands", extra={"error": str(error)})
            else:
                self.last_error = ""
                yield workers


def read_workers(path: Path, pools: Sequence[str]) -> tuple[WorkerSection, ...]:
    """The file's workers, each with its pool. ConfigError names the key and the fix."""
    workers = validated(WorkersFile, read_tables(path), str(path)).worker
    complete = tuple(placed(str(path), worker, pools) for worker in workers)
    ids = [worker.worker_id for worker in complete]
    for worker_id in ids:
        if ids.count(worker_id) > 1:
            raise ConfigError(f"{path}: worker {worker_id!r} is there twice; each must differ")
    return complete


def placed(where: str, worker: WorkerSection, pools: Sequence[str]) -> WorkerSection:
    """``worker`` with its pool filled in; a ConfigError that begins with ``where`` when it has none."""
    pool = worker.pool or (pools[0] if len(pools) == 1 else None)
    if pool not in pools:
        problem = f"no pool is called {pool!r}" if pool else 'it must say its pool = "…"'
        raise ConfigError(f"{where}: worker {worker.url}: {problem} ({', '.join(pools)})")
    return worker.model_copy(update={"pool": pool})
