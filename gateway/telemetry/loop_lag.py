"""How late the event loop is: the first thing to look at when everything is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_INTERVAL_SECONDS = 0.25


async def measure_lag(observe: Callable[[float], None]) -> None:
    """Runs for ever; gives ``observe`` the seconds by which each timer was late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _INTERVAL_SECONDS
        await asyncio.sleep(_INTERVAL_SECONDS)
        observe(max(0.0, loop.time() - due))
