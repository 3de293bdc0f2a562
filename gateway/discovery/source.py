"""What a source of workers is, and how a source that is a file is followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol

from watchfiles import awatch

from gateway.config import WorkerSection

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class WorkerSource(Protocol):
    """Yields the whole set of workers that should exist: at once, and again whenever it changes."""

    @property
    def name(self) -> str: ...
    def snapshots(self) -> AsyncIterator[tuple[WorkerSection, ...]]: ...


async def file_versions(path: Path) -> AsyncIterator[bytes | OSError]:
    """The file's bytes at once, then after each change that made them different.

    Its folder is watched, not the file: editors replace files, and a mounted ConfigMap swaps a link beside it. A watch
    that fails is begun again, for ever.
    """
    last = _read(path)
    yield last
    while True:
        try:
            async for _ in awatch(path.parent, recursive=False, debounce=200):
                if not _same(version := _read(path), last):
                    last = version
                    yield version
            return
        except (OSError, RuntimeError) as error:  # no such folder yet, no watch left, or its inside
            log.warning("a file cannot be followed; trying on", extra={"file": str(path), "error": str(error)})
        await asyncio.sleep(_RETRY_SECONDS)
        if not _same(version := _read(path), last):  # what changed meanwhile
            last = version
            yield version


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def _same(a: bytes | OSError, b: bytes | OSError) -> bool:
    if isinstance(a, OSError) and isinstance(b, OSError):
        return a.errno == b.errno
    return a == b


async def follow(source: WorkerSource, apply: Callable[[str, Sequence[WorkerSection]], None]) -> None:
    """Applies every snapshot of ``source``, for ever: one that breaks is begun again."""
    while True:
        try:
            async for workers in source.snapshots():
                apply(source.name, workers)
            return
        except Exception:  # the task boundary: the other sources and the data plane go on
            log.exception("a source of workers failed; trying on", extra={"source": source.name})
            await asyncio.sleep(_RETRY_SECONDS)
