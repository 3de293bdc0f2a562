"""A file that is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import WorkerSection
from gateway.discovery.source import file_versions, follow


async def test_a_folder_that_is_not_there_yet_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "late" / "file"
    versions = file_versions(file)
    assert isinstance(await anext(versions), OSError)
    following = asyncio.ensure_future(anext(versions))
    async with asyncio.timeout(20):
        while "cannot be followed; trying on" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        file.parent.mkdir()
        file.write_bytes(b"one")
        assert await following == b"one"
        following = asyncio.ensure_future(anext(versions))
        await asyncio.sleep(0.3)  # until the watch is in place
        file.write_bytes(b"two")
        assert await following == b"two"
    await versions.aclose()  # type: ignore[attr-defined]


class Breaks:
    """Fails at its first use, and then has a worker."""

    name = "breaks"
    num_uses = 0

    async def snapshots(self) -> AsyncIterator[tuple[WorkerSection, ...]]:
        self.num_uses += 1
        if self.num_uses == 1:
            raise RuntimeError("broken")
        yield (WorkerSection(url="http://x:1"),)


async def test_a_source_that_breaks_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    applied = []
    await follow(Breaks(), lambda name, workers: applied.append((name, [w.url for w in workers])))
    assert applied == [("breaks", ["http://x:1"])]
    assert "a source of workers failed; trying on" in caplog.text
