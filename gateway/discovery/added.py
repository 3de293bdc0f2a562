"""Workers that were added through the admin port: kept in the state folder, so that they outlive the process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.config import WorkerSection
from gateway.config_file import validated
from gateway.config_values import Section
from gateway.discovery.file import placed
from gateway.errors import ConfigError
from gateway.policy_state import write_whole

log = logging.getLogger(__name__)

FILE_NAME = "workers.added"
"""No pool's file has this name."""


class _Kept(Section):
    worker: tuple[dict[str, Any], ...]


class AddedWorkers:
    """Args: folder: exists; None: they are kept nowhere."""

    name = "admin"

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE_NAME if folder else None
        self._writing = asyncio.Lock()

    def read(self, pools: Sequence[str]) -> list[WorkerSection]:
        """Those of pools that there still are. What cannot be used is logged."""
        workers = []
        for table in self._read():
            try:
                worker = validated(WorkerSection, table, str(self._path))
                workers.append(placed(str(self._path), worker, pools))
            except ConfigError as error:
                log.error("a worker added before is left out", extra={"error": str(error)})
        return workers

    def _read(self) -> tuple[dict[str, Any], ...]:
        if self._path is None or not self._path.is_file():
            return ()
        try:
            return validated(_Kept, json.loads(self._path.read_bytes()), str(self._path)).worker
        except (OSError, ValueError, ConfigError) as error:
            log.error("workers added before are not known any more", extra={"error": str(error)})
            return ()

    async def keep(self, workers: Sequence[WorkerSection]) -> None:
        """``workers`` is all that is added by now. Returns when it is on disk, or cannot be; that is logged."""
        path = self._path
        if path is None:
            return
        tables = [worker.model_dump(mode="json", exclude_defaults=True) for worker in workers]
        async with self._writing:
            try:
                await asyncio.to_thread(write_whole, path, json.dumps({"worker": tables}, indent=1).encode())
            except OSError as error:
                log.error("added workers not kept for the next start", extra={"error": str(error)})
