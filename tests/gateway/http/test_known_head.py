"""What is taken for a head that was seen before is exactly what the parser would make of it."""

from __future__ import annotations

import asyncio
import gc
import random

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.client_connection import ClientConnection
from gateway.http.head_checks import check_head
from gateway.http.incoming import NOTES, IncomingRequest
from gateway.http.known_head import MAX_KNOWN_BYTES, KnownHead, known_head
from gateway.http.settings import HttpSettings
from tests.support.fake_vllm import FakeVllm
from tests.support.running_plane import running_plane, with_settings

BODY = b'{"model": "m", "messages": []}'


def request(*headers, body=BODY, line=b"POST /v1/chat/completions HTTP/1.1"):
    lines = [line, b"Host: gateway:8000", *headers, b"Content-Length: %d" % len(body), b"User-Agent: test"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Parsed:
    """All that the parser says of one read."""

    def __init__(self, data):
        self.told = []
        self.incoming = None
        self.num_complete = 0
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.num_complete = -1

    def on_message_begin(self):
        self.incoming = IncomingRequest()
        self.body = b""

    def on_url(self, url):
        self.incoming.target += url

    def on_header(self, name, value):
        if name.lower() != b"content-length":
            self.told.append((name, value))
        note = NOTES.get(name.lower())
        if note is None:
            self.incoming.headers.append(b"%b: %b\r\n" % (name, value))
        else:
            note(self.incoming, name, value)

    def on_headers_complete(self):
        parser = self.parser
        check_head(
            self.incoming,
            parser.get_method(),
            parser.get_http_version(),
            HttpSettings(),
            num_read=0,
            keep_alive=parser.should_keep_alive(),
        )

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.num_complete += 1
        self.incoming.body = self.body


def known_of(data):
    parsed = Parsed(data)
    assert parsed.num_complete == 1
    return known_head(data, parsed.incoming, HttpSettings(), None)


def test_the_same_head_with_a_body_of_another_length_is_known():
    known = known_of(request())
    other = request(body=b"x" * 12_345)

    assert known is not None
    assert other[known.body_start(other) :] == b"x" * 12_345


@pytest.mark.parametrize(
    "other",
    [
        request()[:-1],
        request() + b"P",
        request(b"X-New: 1"),
        request().replace(b"Length: 30", b"Length: +30"),
        request().replace(b"Length: 30", b"Length: 30 "),
        request().replace(b"Length: 30", b"Length: 0x1e"),
        request().replace(b"Length: 30", b"Length:  30"),
        request().replace(b"Length: 30", "Length: ٣٠".encode()),
        request().replace(b"Length: 30", b"Length: "),
        request().replace(b"Length: 30", b"Length: 0000000030"),
        request().replace(b"30\r\n", b"30\n"),
        request().replace(b"POST", b"\r\nPOST"),
        request().replace(b"gateway:8000", b"gateway:8001"),
        b"",
    ],
)
def test_anything_else_goes_to_the_parser(other):
    assert known_of(request()).body_start(other) == 0


@pytest.mark.parametrize(
    "data",
    [
        request(b"Connection: close"),
        request(b"Expect: 100-continue"),
        request(line=b"POST /v1/chat/completions HTTP/1.0"),
        request(line=b"POST /metrics HTTP/1.1"),
        request(line=b"PUT /v1/chat/completions HTTP/1.1"),
        request(b"X-Long: " + b"a" * MAX_KNOWN_BYTES),
        b"\r\n" + request(),
        request().replace(b"Content-Length: 30", b"CONTENT-LENGTH: 30"),
        request(body=b""),
    ],
)
def test_heads_that_are_not_kept(data):
    known = known_of(data)

    assert known is None or known.body_start(data) == len(data)  # without a body there is nothing to take


async def test_a_connection_reads_the_same_whether_it_knows_the_head_or_not() -> None:
    """Whole, in two reads, with another body, another header, and a second half that looks like a beginning."""
    looks_whole = request(b"X-Second: 1", body=b'{"model": "tiny", "messages": ["inner"]}')
    torn = b"POST /v1/chat/completions HTTP/1.1\r\nX-First: "
    own = {"a": b'{"model": "tiny", "messages": ["a"]}', "bb": b'{"model": "tiny", "messages": ["bb"]}'}
    asked = [request(body=own["a"]), request(body=own["bb"]), request(b"X-Other: 1", body=own["a"]), looks_whole]
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        client.writer.write(torn)
        await asyncio.sleep(0.02)
        assert (await client.ask(looks_whole)).status == 200
        for data in asked * 2:
            assert (await client.ask(data)).status == 200
    first, *rest = worker.requests
    assert first.headers["x-first"] == "POST /v1/chat/completions HTTP/1.1"
    assert [r.json["messages"] for r in rest] == [["a"], ["bb"], ["a"], ["inner"]] * 2
    assert [r.headers.get("x-second") for r in rest] == [None, None, None, "1"] * 2
    assert [r.headers.get("x-other") for r in rest] == [None, None, "1", None] * 2
    assert all("x-first" not in r.headers and r.headers["content-length"] == str(len(r.body)) for r in rest)


async def test_other_settings_reach_a_connection_whose_head_is_known() -> None:
    asked = request(body=b'{"model": "tiny", "messages": []}')
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        for _ in range(2):
            assert (await client.ask(asked)).status == 200
        plane.data_plane.reconfigure(with_settings(forwarded="append"))
        for _ in range(2):
            assert (await client.ask(asked)).status == 200
        plane.data_plane.reconfigure(with_settings(max_headers=0))
        assert (await client.ask(asked)).status == 431
    assert [r.headers.get("x-forwarded-for") for r in worker.requests] == [None, None, "127.0.0.1", "127.0.0.1"]


async def test_an_idle_connection_keeps_nothing_of_what_it_read() -> None:
    """Neither after a whole request, nor after one that the parser refuses."""
    body = b'{"model": "tiny", "messages": ["%s"]}' % (b"x" * 10_000)
    async with FakeVllm() as worker, running_plane([worker]) as plane, plane.client() as client:
        assert (await client.ask(request(body=body))).status == 200
        (connection,) = [c for c in gc.get_objects() if type(c) is ClientConnection and not c.transport.is_closing()]
        assert connection._whole == b""
        assert (await client.ask(b"no HTTP at all\r\n\r\n")).status == 400
        assert connection._whole == b""


mutations = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([b"", b"\r", b"\n", b" ", b"0", b"9", b":", b"a", b"\0"])),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(mutations, st.integers(0, 99), st.randoms(use_true_random=False))
def test_what_is_taken_is_what_the_parser_says(changes, size, rng: random.Random):
    headers = b"Authorization: Bearer k", b"X-Content-Length: 7", b"X-Text: a, Content-Length: 8"
    original = request(*headers)
    known = known_of(original)
    data = bytearray(
        request(
            b"Authorization: Bearer k",
            b"X-Content-Length: 7",
            b"X-Text: a, Content-Length: 8",
            body=rng.randbytes(size),
        )
    )
    for at, byte in changes:
        data[at : at + rng.randrange(2)] = byte
    data = bytes(data)

    start = known.body_start(data)

    if start:
        parsed, before = Parsed(data), Parsed(original)
        assert parsed.num_complete == 1
        assert parsed.body == data[start:]
        assert parsed.told == before.told
        assert parsed.incoming.headers == known.incoming.headers
        assert parsed.incoming.target == known.incoming.target
    assert isinstance(known, KnownHead)
