"""What a fault of the process's own tasks does to what it serves: nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.process import _reload_on
from tests.support.fake_vllm import FakeVllm, auto
from tests.support.running_shell import running_shell


class Unreadable(Mapping[str, Any]):
    """Fails as a disk does."""

    def __getitem__(self, key: str) -> Any:
        raise OSError("no such luck")

    def __iter__(self) -> Iterator[str]:
        raise OSError("no such luck")

    def __len__(self) -> int:
        return 1


async def test_a_reload_that_fails_in_no_known_way_is_logged_and_the_next_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeVllm(auto()) as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
        hang_up = asyncio.Event()
        shell.reread = Unreadable()
        task = asyncio.ensure_future(_reload_on(hang_up, shell.gateway))
        with caplog.at_level(logging.ERROR):
            hang_up.set()
            await shell.until(lambda: "no such luck" in caplog.text)
        shell.reread = {"limits": {"max_body_bytes": 300}}
        hang_up.set()
        await shell.until(lambda: shell.gateway.config.limits.max_body_bytes == 300)
        assert not task.done()
        task.cancel()
