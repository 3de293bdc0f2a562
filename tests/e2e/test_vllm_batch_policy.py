"""A batch policy inside a real vLLM server: it decides who is served next."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support.vllm_servers import ROOT, VllmServer, eventually, missing, vllm_servers

POLICY = ROOT / "tests" / "twin" / "policies" / "shortest_prompt.py"
LENGTHS = (400, 60, 300, 20, 500, 150)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    if missing() or not os.environ.get("RANVIER_VLLM_SERVE"):
        pytest.skip(missing() or "needs a server with a scheduler of its own: give RANVIER_VLLM_SERVE")
    config = shlex.quote(json.dumps({"ranvier_batch_policy": str(POLICY)}))
    options = f"--max-num-seqs 1 --scheduler-cls gateway.vllm_scheduler.PolicyScheduler --additional-config {config}"
    with vllm_servers(tmp_path_factory.mktemp("batch_policy"), 1, options) as (server,):
        yield server


async def test_who_waits_is_served_in_the_policys_order(vllm: VllmServer) -> None:
    ended: list[int] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=240)) as client:
        async with client.get(f"{vllm.url}/v1/models") as answer:
            model = (await answer.json())["data"][0]["id"]

        async def complete(length: int, max_tokens: int) -> None:
            body = {"model": model, "prompt": [5] * length, "max_tokens": max_tokens, "ignore_eos": True}
            async with client.post(f"{vllm.url}/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.json())["usage"]["completion_tokens"] == max_tokens
            ended.append(length)

        first = asyncio.ensure_future(complete(10, 1500))
        assert await asyncio.to_thread(eventually, lambda: vllm.metric("vllm:num_requests_running") == 1)
        rest = [asyncio.ensure_future(complete(length, 20)) for length in LENGTHS]
        assert await asyncio.to_thread(eventually, lambda: vllm.metric("vllm:num_requests_waiting") == len(LENGTHS)), (
            "the first answer came too soon: nothing waited"
        )
        await asyncio.gather(first, *rest)
    assert ended == [10, *sorted(LENGTHS)]


async def test_the_server_says_which_policy_it_runs(vllm: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = next(path for path in tmp_path_factory.getbasetemp().glob("batch_policy*"))
    log = next(folder.glob("vllm-*.log")).read_text()
    assert "batch policy shortest_prompt" in log
