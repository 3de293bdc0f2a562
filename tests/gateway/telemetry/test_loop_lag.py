"""The lag of a loop that is held up."""

from __future__ import annotations

import asyncio
import time

from gateway.telemetry.loop_lag import measure_lag


async def test_a_held_loop_shows() -> None:
    seen: list[float] = []
    task = asyncio.get_running_loop().create_task(measure_lag(seen.append))
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 this is the fault to be seen
    async with asyncio.timeout(10):
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    assert seen[0] >= 0.2
