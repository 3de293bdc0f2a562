"""The last resort: a process whose event loop stands still for good ends, so that a supervisor starts another.

The watchdog interrupts Python code; code that loops inside C it cannot. ``faulthandler`` can end the process all
the same: its thread needs no interpreter lock. The stacks of all threads go to stderr first.
"""

from __future__ import annotations

import asyncio
import faulthandler


async def exit_when_stuck(seconds: float) -> None:
    """Runs for ever. While it does, a loop that does not turn for ``seconds`` ends the process with status 1."""
    try:
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True)
            await asyncio.sleep(seconds / 4)
    finally:
        faulthandler.cancel_dump_traceback_later()
