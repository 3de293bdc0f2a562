"""The client against a real server on loopback."""

from __future__ import annotations

import socket
import time

import gevent
import pytest

from loadgen.wire import Client, UrlError
from tests.support.fake_vllm import (
    auto,
    close_after_headers,
    close_before_first_byte,
    close_mid_stream,
    error,
    error_event,
    garbage,
    silent,
    slow_bytes,
    stream,
)
from tests.support.threaded import threaded_vllm

PATH, BODY = "/v1/chat/completions", b'{"stream": true, "stream_options": {"include_usage": true}, "messages": []}'


@pytest.fixture
def connect():
    """Makes clients, and closes what they keep open."""
    made: list[Client] = []

    def client(url: str, timeout: float = 20.0) -> Client:
        made.append(Client(url, timeout))
        return made[-1]

    yield client
    for each in made:
        each.close()


def post(client: Client, body: bytes = BODY, headers=()):
    return client.post(PATH, list(headers), body)


def test_a_stream_and_what_the_server_heard(connect):
    with threaded_vllm(stream(4)) as server:
        before = time.perf_counter()
        answer = post(connect(server.url), headers=[("x-request-id", "r1")])
        (request,) = server.requests
    assert (answer.error, answer.status, answer.num_token_events) == (None, 200, 4)
    assert answer.usage["completion_tokens"] == 4
    assert before <= answer.sent < answer.first_token <= answer.end
    assert (request.method, request.path, request.body) == ("POST", PATH, BODY)
    assert request.headers["x-request-id"] == "r1"
    assert request.headers["content-type"] == "application/json"


def test_an_answer_in_single_bytes(connect):
    with threaded_vllm(slow_bytes(stream(3))) as server:
        answer = post(connect(server.url))
    assert (answer.error, answer.num_token_events) == (None, 3)


def test_a_whole_answer(connect):
    with threaded_vllm(auto(5)) as server:
        answer = post(connect(server.url), b"{}")
    assert (answer.error, answer.first_token, answer.usage["completion_tokens"]) == (None, None, 5)


def test_a_base_url_may_end_in_v1(connect):
    with threaded_vllm(stream(1)) as server:
        assert post(connect(f"{server.url}/v1/")).error is None
        assert post(connect(f"{server.url}/prefix")).error is None
        assert [request.path for request in server.requests] == [PATH, f"/prefix{PATH}"]


def test_connections_are_kept_and_shared(connect):
    with threaded_vllm(stream(2, delay=0.1)) as server:
        client = connect(server.url)
        assert [post(client).error for _ in range(3)] == [None] * 3
        assert server.num_connections == 1
        both = [gevent.spawn(post, client) for _ in range(2)]
        gevent.joinall(both, raise_error=True)
        assert server.num_connections == 2
        client.close()


def test_a_connection_closed_while_idle_is_not_used(connect):
    with threaded_vllm(stream(2, drop_idle=True)) as server:
        client = connect(server.url)
        for _ in range(3):
            assert post(client).error is None
            gevent.sleep(0.05)
        assert server.num_connections == 3


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        pytest.param(error(503), "http 503", id="503"),
        pytest.param(error_event(503), "stream error 503", id="503 inside a 200"),
        pytest.param(error_event(500, after=2), "stream error 500", id="worker dies in a stream"),
        pytest.param(close_before_first_byte(), "connection lost", id="closed before a byte"),
        pytest.param(close_before_first_byte(reset=True), "connection lost", id="reset before a byte"),
        pytest.param(close_after_headers(), "connection lost", id="closed after the headers"),
        pytest.param(close_mid_stream(after=2), "connection lost", id="closed in the stream"),
        pytest.param(garbage(), "bad response", id="not HTTP"),
    ],
)
def test_failures_are_answers(connect, behaviour, kind):
    """And the next request works: nothing of the broken one is reused."""
    with threaded_vllm([behaviour, stream(2)]) as server:
        client = connect(server.url)
        assert post(client).error == kind
        assert post(client).error is None
        assert len(server.requests) == 2


def test_a_server_that_says_nothing_times_out(connect):
    with threaded_vllm([silent(), stream(2)]) as server:
        client = connect(server.url, timeout=0.1)
        answer = post(client)
        assert (answer.error, answer.detail) == ("timeout", "no whole answer after 0.1 s")
        assert (answer.status, answer.first_token) == (0, None)


def test_connection_refused(connect):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = post(connect(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert (answer.error, answer.status) == ("connect failed", 0)
    assert "refused" in answer.detail
    assert answer.end >= answer.sent


def test_a_name_that_does_not_resolve(connect):
    assert post(connect("http://no-such-host.invalid:1")).error == "connect failed"


@pytest.mark.parametrize("url", ["", "http://", "ftp://x", "http://x?y=1", "http://x:99999", "http://x:port"])
def test_bad_urls(url):
    with pytest.raises(UrlError):
        Client(url)


def test_the_standard_library_is_not_patched():
    from gevent import monkey

    assert not monkey.is_module_patched("socket")
