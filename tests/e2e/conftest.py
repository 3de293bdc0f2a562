"""Real vLLM servers, started once for all tests that want them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.vllm_servers import VllmServer, missing, vllm_servers


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[VllmServer]]:
    if why := missing():
        pytest.skip(why)
    with vllm_servers(tmp_path_factory.mktemp("vllm")) as servers:
        yield servers
