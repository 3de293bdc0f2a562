"""What is wrong with an endpoint, in the words of the settings: each case made for real, on loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from designer.proposers.llm.diagnosis import refused, unreachable, without_tools
from designer.proposers.llm.endpoint import Endpoint, EndpointError
from designer.proposers.llm.settings import Role
from tests.support.certificates import Authority, needs_openssl
from tests.support.fake_vllm import FakeVllm, error
from tests.support.scripted_models import cast_settings, says

HELLO = [{"role": "user", "content": "hello"}]


def role_at(url: str) -> Role:
    return cast_settings(url).researcher


async def failure_at(url: str) -> EndpointError:
    """Of the first request and of a look, which say the same."""
    endpoint = Endpoint(role_at(url))
    try:
        with pytest.raises(EndpointError) as asked:
            await endpoint.complete(HELLO, [], None)
        with pytest.raises(EndpointError) as looked:
            await endpoint.probe("/models")
    finally:
        await endpoint.close()
    assert str(asked.value) == str(looked.value)
    return asked.value


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        failure = await failure_at(url)
    assert (failure.nowhere, failure.charged) == (True, False)
    assert str(failure) == (
        f"{url}/v1: nobody listens there (connection refused); start the server and resume, "
        "or correct base_url (--base-url) in a new run"
    )


async def test_a_name_that_nobody_has() -> None:
    failure = await failure_at("http://no-such-host.invalid:8000")
    assert (failure.nowhere, failure.charged) == (True, False)
    assert "the name no-such-host.invalid is not known" in str(failure)
    assert "correct base_url (--base-url)" in str(failure)


@needs_openssl
async def test_a_certificate_of_an_authority_that_nobody_knows(tmp_path: Path) -> None:
    async with FakeVllm(says("hello"), tls=Authority(tmp_path).server()) as server:
        failure = await failure_at(server.url)
        # Written as http://, what comes back is no HTTP.
        plain = await failure_at(server.url.replace("https:", "http:"))
    assert failure.nowhere
    assert "its certificate is not trusted (" in str(failure)
    assert "SSL_CERT_FILE" in str(failure)
    assert plain.nowhere
    assert str(plain).endswith("; if TLS is spoken there, write https://")


async def test_no_tls_where_https_is_written() -> None:
    """As servers do, it answers a greeting that it does not understand with 400."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        failure = await failure_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert failure.nowhere
    assert "no TLS is spoken there" in str(failure)
    assert "write http:// in base_url" in str(failure)


def test_what_the_system_says_of_other_troubles_is_passed_on() -> None:
    try:
        raise ConnectionError("all attempts failed") from OSError(113, "No route to host")
    except ConnectionError as caught:
        text = unreachable(role_at("http://127.0.0.1:9"), caught)
    assert "it cannot be reached ([Errno 113] No route to host)" in text


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_called_by_its_variable(status: int) -> None:
    text = refused(role_at("http://127.0.0.1:9"), status, "who are you", None)
    assert f"the key in RANVIER_LLM_KEY was refused ({status}: who are you); set the variable" in text


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    role = role_at("http://127.0.0.1:9")
    text = refused(role, 404, "no", {f"model-{n:02}" for n in range(12)})
    assert "model 'researcher' is not served there (no); it serves model-00, model-01, " in text
    assert "model-07, …: correct model (--model)" in text
    assert "base_url is not the part before" in refused(role, 404, "no", None)
    assert "correct model (--model)" in refused(role, 404, "no", {"researcher"})


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        (400, "registry.ollama.ai/library/small does not support tools"),
        (500, "tools param requires --jinja flag"),
    ],
)
async def test_a_server_without_tool_calls_says_what_to_start_or_to_set(status: int, said: str) -> None:
    async with FakeVllm(error(status, said)) as server:
        endpoint = Endpoint(role_at(server.url))
        with pytest.raises(EndpointError) as caught:
            await endpoint.complete(HELLO, [], None)
        await endpoint.close()
    assert caught.value.fatal
    assert not caught.value.charged
    assert "--enable-auto-tool-choice --tool-call-parser NAME" in str(caught.value)
    assert 'tools = "text"' in str(caught.value)


def test_another_refusal_is_not_about_tools() -> None:
    assert without_tools("This model's maximum context length is 4096 tokens") == ""
    assert without_tools("tool_call_id of the message at 5 is not found") == ""
