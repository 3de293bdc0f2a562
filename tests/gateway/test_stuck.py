"""A loop that stands still inside C, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

STUCK = """
import asyncio, itertools, sys
from gateway.stuck import exit_when_stuck

async def main(busy):
    async with asyncio.TaskGroup() as group:
        task = group.create_task(exit_when_stuck(0.2))
        await asyncio.sleep(0.6)  # turning, it goes on
        if busy:
            sum(itertools.repeat(0))
        task.cancel()

asyncio.run(main(sys.argv[1] == "busy"))
print("ended by itself")
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", STUCK, how], capture_output=True, text=True, timeout=60, check=False)


def test_a_stuck_process_ends_and_says_where() -> None:
    done = run("busy")
    assert done.returncode == 1
    assert "Timeout" in done.stderr and "in main" in done.stderr
    assert done.stdout == ""


def test_one_that_turns_is_left_alone() -> None:
    done = run("idle")
    assert (done.returncode, done.stdout) == (0, "ended by itself\n")
