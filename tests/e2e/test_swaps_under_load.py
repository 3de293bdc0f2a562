"""Policies are swapped while requests run: none is lost, doubled or left hanging, whatever is loaded.

``RANVIER_SWAP_REQUESTS`` sets how many requests run (default 300).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.support.processes import RunningGateway, running_gateway

NUM_REQUESTS = int(os.environ.get("RANVIER_SWAP_REQUESTS", "300"))
CONCURRENCY = 40
SPECS = ("round_robin", "head_room", "least_tokens", "power_of_two", "least_loaded", "expert", "prefix_affinity")


@dataclass
class Tally:
    """What the client saw, by request id."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    swaps: list[tuple[str, int]] = field(default_factory=list)
    longest_silence: float = 0.0
    """Seconds between two answers of the gateway's own health path, asked all the time."""


async def ask(session: aiohttp.ClientSession, gateway: RunningGateway, number: int, tally: Tally, tenant: str) -> None:
    request_id = f"swap-{tenant}-{number}"
    body = {"model": "mock", "max_tokens": 12, "stream": number % 2 == 0}
    body["messages"] = [{"role": "user", "content": "words " * (1 + number % 50)}]
    headers = {"x-request-id": request_id, "x-ranvier-tenant": tenant, "x-ranvier-output-tokens": "8"}
    async with session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
        text = await answer.text()
        complete = text.rstrip().endswith("data: [DONE]") if body["stream"] else '"usage"' in text
        if answer.status != 200 or not complete or answer.headers["x-request-id"] != request_id:
            tally.wrong.append(f"{request_id}: {answer.status} {text[-200:]}")
        tally.answers[request_id] += 1


async def load(session: aiohttp.ClientSession, gateway: RunningGateway, spec: str, tally: Tally) -> int:
    async with session.post(f"{gateway.admin_url}/admin/policies/default/load", json={"specs": [spec]}) as answer:
        tally.swaps.append((spec, answer.status))
        return answer.status


async def swap_ten_times(
    session: aiohttp.ClientSession, gateway: RunningGateway, folder: Path, tally: Tally, asked: asyncio.Event
) -> None:
    """Seven good sets, two broken files and one that loops when asked by the tenant of that name."""
    broken = folder / "broken.py"
    broken.write_text("def create(rng:\n")
    answers_nothing = folder / "nothing.py"
    answers_nothing.write_text('"""Source: none."""\n\n\ndef create(rng):\n    return object()\n')
    loop = Path(__file__).parent.parent / "support" / "stubborn_loop.py"
    for spec in (*SPECS[:3], str(broken), *SPECS[3:5], str(answers_nothing), *SPECS[5:]):
        await load(session, gateway, spec, tally)
    assert await load(session, gateway, str(loop), tally) == 200
    asked.set()
    await ask(session, gateway, 0, tally, "loop")


async def watch(session: aiohttp.ClientSession, gateway: RunningGateway, tally: Tally) -> None:
    last = time.monotonic()
    while True:
        async with session.get(f"{gateway.url}/health"):
            now = time.monotonic()
        tally.longest_silence = max(tally.longest_silence, now - last)
        last = now
        await asyncio.sleep(0.001)


async def run(gateway: RunningGateway, folder: Path) -> Tally:
    tally, asked = Tally(), asyncio.Event()
    room = asyncio.Semaphore(CONCURRENCY)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        async with room:
            await ask(session, gateway, number, tally, "default")

    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        watcher = group.create_task(watch(session, gateway, tally))
        swaps = group.create_task(swap_ten_times(session, gateway, folder, tally, asked))
        requests = [group.create_task(one(session, number)) for number in range(NUM_REQUESTS // 2)]
        await asked.wait()
        requests += [group.create_task(one(session, number)) for number in range(NUM_REQUESTS // 2, NUM_REQUESTS)]
        await asyncio.gather(swaps, *requests)
        watcher.cancel()
    return tally


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tally, Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("swaps")
    records = folder / "workers.jsonl"
    with running_gateway(folder, "--mock", "2", "--mock-speed", "10", f"--mock-arg=--records={records}") as gateway:
        tally = asyncio.run(run(gateway, folder))
        pool = asyncio.run(policies_of(gateway))
    print(f"\n{len(tally.answers)} requests, swaps {tally.swaps}, longest silence {tally.longest_silence * 1e3:.0f} ms")
    return tally, records, pool


async def policies_of(gateway: RunningGateway) -> dict[str, object]:
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.admin_url}/admin/policies/default") as answer:
        state: dict[str, object] = await answer.json()
        return state


def test_nothing_is_lost_doubled_or_hung(result: tuple[Tally, Path, dict[str, object]]) -> None:
    tally = result[0]
    assert tally.wrong == []
    assert len(tally.answers) == NUM_REQUESTS + 1
    assert set(tally.answers.values()) == {1}


def test_workers_saw_each_request_once(result: tuple[Tally, Path, dict[str, object]]) -> None:
    tally, records, _ = result
    seen = Counter(json.loads(line)["request_id"] for line in records.read_text().splitlines())
    assert {request_id: seen[request_id] for request_id in tally.answers} == dict.fromkeys(tally.answers, 1)


def test_broken_files_were_refused_and_good_ones_taken(result: tuple[Tally, Path, dict[str, object]]) -> None:
    refused = [spec for spec, status in result[0].swaps if status != 200]
    assert [Path(spec).name for spec in refused] == ["broken.py", "nothing.py"]
    assert len(result[0].swaps) == 10


def test_the_loop_was_retired_and_the_set_before_it_is_back(result: tuple[Tally, Path, dict[str, object]]) -> None:
    text = json.dumps(result[2])
    assert "prefix_affinity" in text
    assert "retired" in text or "interrupt" in text
