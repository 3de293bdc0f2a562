"""The client under the SDK: one host, few headers, bounded bodies."""

from __future__ import annotations

import httpx
import pytest

from designer.proposers.llm.client import make_client
from tests.support.fake_vllm import FakeVllm, answer


async def test_what_would_go_elsewhere_is_stopped_before_it_leaves() -> None:
    async with FakeVllm(answer({})) as home, FakeVllm(answer({})) as other:
        client = make_client(f"{home.url}/v1", "sk-secret", 5.0)
        async with client:
            sent = await client.post(f"{home.url}/v1/chat", headers={"x-organization": "mine"}, json={})
            assert sent.status_code == 200
            with pytest.raises(httpx.UnsupportedProtocol, match="another host"):
                await client.post(f"{other.url}/v1/chat", json={})
        assert home.requests[0].headers["authorization"] == "Bearer sk-secret"
        assert "x-organization" not in home.requests[0].headers
        assert other.all_requests == []


async def test_no_proxy_of_the_environment_reads_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeVllm(answer({})) as home, FakeVllm(answer({})) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with make_client(home.url, "sk-secret", 5.0) as client:
            await client.post(f"{home.url}/v1/chat", json={})
        assert len(home.requests) == 1
        assert proxy.all_requests == []
