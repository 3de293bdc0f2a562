"""A file that is followed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.discovery.source import file_versions


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
