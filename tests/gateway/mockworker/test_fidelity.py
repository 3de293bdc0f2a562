"""The server in real time against the engine in virtual time, on the same few hundred requests."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from gateway.mockworker.config import MockConfig
from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineRequest
from gateway.mockworker.records import RecordLog
from gateway.mockworker.server import OUTPUT_TOKENS_HEADER, MockWorker
from tests.support.mock_profile import flat_profile

SPEED = 20.0
PROFILE = flat_profile(step_ms=15, num_gpu_blocks=120, max_num_seqs=16)
"""So little KV that requests are preempted."""


def workload(count: int) -> list[tuple[float, EngineRequest]]:
    """(Engine seconds, request), some 15 requests a second."""
    rng = random.Random(3)
    at, requests = 0.0, []
    for i in range(count):
        at += rng.expovariate(15.0)
        requests.append((at, EngineRequest(f"r{i}", rng.randint(1, 400), rng.randint(1, 120))))
    return requests


def virtual(requests: list[tuple[float, EngineRequest]]) -> tuple[dict[str, int], Engine]:
    """Tokens by request."""
    engine = Engine(PROFILE.engine, PROFILE)
    runs = []
    for at, request in requests:
        now = int(at * PS_PER_SECOND)
        runs += engine.advance(now)
        engine.add(request, now)
    while (step := engine.next_event_time()) is not None:
        runs += engine.advance(step)
    return {stats.request_id: stats.num_output_tokens for run in runs for stats in run.stats}, engine


async def ask(port: int, request: EngineRequest) -> int:
    """Content events of a streamed answer that ends properly."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": "wxyz" * request.num_prompt_tokens, "max_tokens": 500, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: {request.request_id}\r\n"
    head += f"{OUTPUT_TOKENS_HEADER}: {request.num_output_tokens}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read(-1)
    writer.close()
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    return answer.count(b'"text":" ')


async def test_a_replay_makes_the_tokens_that_virtual_time_makes(tmp_path: Path) -> None:
    requests = workload(250)
    expected, engine = virtual(requests)
    assert expected == {request.request_id: request.num_output_tokens for _, request in requests}
    assert engine.num_preemptions > 0, "the workload does not press the KV cache"
    with RecordLog(tmp_path / "r") as log:
        worker = MockWorker(PROFILE, MockConfig(speed=SPEED), log)
        port = await worker.start()
        async with asyncio.TaskGroup() as group, asyncio.timeout(30):
            tasks, before = {}, 0.0
            for at, request in requests:
                await asyncio.sleep((at - before) / SPEED)
                before = at
                tasks[request.request_id] = group.create_task(ask(port, request))
        generated = worker.metrics.num_generation_tokens
        await worker.close()
    assert {name: task.result() for name, task in tasks.items()} == expected
    assert generated == sum(expected.values())
    records = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert {r["request_id"]: r["num_output_tokens"] for r in records} == expected
    assert len(records) == len(expected), "one record a request"
