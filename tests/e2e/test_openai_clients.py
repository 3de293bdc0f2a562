"""The openai SDK and curl, unchanged, through the gateway to two mock workers, and to a real vLLM where there is one.

``make e2e-vllm`` says where the real one comes from.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import openai
import pytest

from tests.support.processes import RunningGateway, running_gateway

HELLO = [{"role": "user", "content": "Say hello to the nodes of Ranvier."}]


def worker_arguments(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "mock":
        return ["--mock", "2", "--mock-speed", "20"]
    return ["--worker", ",".join(server.url for server in request.getfixturevalue("vllm"))]


@pytest.fixture(scope="module", params=["mock", "vllm"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path_factory.mktemp("gateway"), *worker_arguments(request)) as g:
        yield g


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as c:
        yield c


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_models_are_merged_over_workers(client: openai.OpenAI) -> None:
    names = [m.id for m in client.models.list().data]
    assert len(names) == len(set(names)) == 1


def test_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None and 1 <= answer.usage.completion_tokens <= 8


def test_chat_streamed(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert chunks[-1].usage is not None and 1 <= chunks[-1].usage.completion_tokens <= 8
    assert sum(1 for c in chunks if c.choices and c.choices[0].finish_reason) == 1


def test_completion(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=4)
    assert answer.choices[0].text


async def test_async_chat(gateway: RunningGateway, model: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as c:
        plain = await c.chat.completions.create(model=model, messages=HELLO, max_tokens=4)
        assert plain.choices[0].message.content
        stream = await c.chat.completions.create(model=model, messages=HELLO, max_tokens=4, stream=True)
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason in {"stop", "length"}


def test_unknown_model_is_the_sdks_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as failure:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert "no-such-model" in str(failure.value)


def test_bad_value_is_the_sdks_bad_request(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=HELLO, max_tokens=-1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sees_the_stream_end(gateway: RunningGateway, model: str) -> None:
    body = f'{{"model":"{model}","stream":true,"max_tokens":4,"messages":[{{"role":"user","content":"hi"}}]}}'
    command = ["curl", "-sN", "-i", f"{gateway.url}/v1/chat/completions", "-H", "content-type: application/json"]
    answer = subprocess.run([*command, "-d", body], capture_output=True, timeout=30, check=True).stdout.decode()
    head, _, events = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert "x-request-id" in head.lower()
    assert events.rstrip().endswith("data: [DONE]")
