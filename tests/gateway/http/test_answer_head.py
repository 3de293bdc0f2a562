"""A head is read once: an answer that differs in its length alone is taken as the parser would take it."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.answer_head import FaultyHeadError, Heads, read_head, without_length
from tests.support.fake_vllm import FakeVllm, raw
from tests.support.running_plane import chat, running_plane

LINES = (b"HTTP/1.1 200 OK", b"server: uvicorn", b"Connection: x-own", b"x-own: 1", b"content-length: 5", b"x-last: 2")
HEAD = b"\r\n".join(LINES)


def known(*heads):
    found = Heads()
    for head in heads:
        answer, _ = found.read(head, 200)
        answer.skips_parser = True
    return found


def test_a_head_is_read_once_whatever_its_length():
    heads = Heads()
    first, five = heads.read(HEAD, 200)
    again, twelve = heads.read(HEAD.replace(b": 5", b": 12"), 200)

    assert first is again
    assert (five, twelve) == (b"5", b"12")
    assert again.lines(twelve) == b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 12\r\nx-last: 2\r\n"


def test_a_length_written_otherwise_is_passed_on_as_it_came():
    heads = Heads()
    for line in (b"CONTENT-LENGTH: 5", b"content-length:5", b"content-length:  5 "):
        answer, digits = heads.read(b"HTTP/1.1 200 OK\r\n" + line, 200)
        assert (answer.length, digits) == (5, b"")
        assert answer.lines(digits) == b"HTTP/1.1 200 OK\r\n" + line + b"\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"\r\nHTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
    ],
)
def test_what_cannot_be_passed_on_is_never_known(head):
    heads = Heads()
    for _ in range(2):
        with pytest.raises(FaultyHeadError):
            heads.read(head, 200)


def test_an_answer_without_a_body_has_no_length():
    answer = read_head(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5", 304)

    assert (answer.framing, answer.length) == ("none", 0)


def test_heads_are_forgotten_before_they_fill_the_memory():
    heads = Heads()
    for number in range(1_000):
        heads.read(b"HTTP/1.1 200 OK\r\ndate: %d" % number, 200)
    heads.read(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 10_000, 200)

    assert 0 < len(heads._known) <= 64
    assert max(map(len, heads._known)) < 100


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"\r\n\r\nabcd",
        HEAD + b"\r\n\r\nabcdef",
        HEAD.replace(b": 5", b": ") + b"\r\n\r\n",
        HEAD.replace(b": 5", b": 5 ") + b"\r\n\r\nabcde",
        HEAD.replace(b": 5", b": +5") + b"\r\n\r\nabcde",
        HEAD.replace(b": 5", b": 5000000000") + b"\r\n\r\nabcde",
        HEAD.replace(b"200", b"204") + b"\r\n\r\nabcde",
        b"\r\n" + HEAD + b"\r\n\r\nabcde",
        HEAD,
        b"",
    ],
)
def test_anything_but_a_whole_answer_goes_to_the_parser(data):
    assert known(HEAD).of_whole(data) is None


@pytest.mark.parametrize("cut", range(len(HEAD) + 9))
def test_a_cut_answer_is_never_taken_whatever_its_length_says(cut):
    """With every length that what is left of it could have."""
    for size in range(cut + 1):
        data = HEAD.replace(b": 5", b": %d" % size) + b"\r\n\r\n" + b"abcde"
        taken = known(HEAD, HEAD[:-1]).of_whole(data[:cut])
        parsed = Parsed(data[:cut])
        assert taken is None or (parsed.num_complete, parsed.body) == (1, taken[2])


class Parsed:
    def __init__(self, data):
        self.body, self.num_complete = b"", 0
        self.parser = httptools.HttpResponseParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.num_complete = -1

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.num_complete += 1
        self.stays = self.parser.should_keep_alive()


changes = st.lists(
    st.tuples(st.integers(0, 130), st.sampled_from([b"", b"\r\n", b" ", b"1", b":", b"a", b"\0"]), st.integers(0, 1)),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(changes, st.integers(0, 99))
def test_what_is_taken_is_what_the_parser_says(edits, size):
    data = bytearray(HEAD.replace(b": 5", b": %d" % size) + b"\r\n\r\n" + b"z" * size)
    for at, byte, width in edits:
        data[at : at + width] = byte
    data = bytes(data)

    taken = known(HEAD).of_whole(data)

    if taken is not None:
        head, digits, body = taken
        parsed = Parsed(data)
        assert (parsed.num_complete, parsed.body) == (1, body)
        assert parsed.stays
        whole = data[: data.find(b"\r\n\r\n")]
        assert head.lines(digits) == read_head(whole, 200, without_length(whole)[1]).lines(digits)


async def test_a_worker_that_closes_is_not_taken_for_one_that_stays():
    """Its head with and without ``Connection: close``, again and again, with bodies of other lengths."""
    bodies = [b'{"n": %d}' % (10**n) for n in range(6)]
    scripts = []
    for n, body in enumerate(bodies):
        close = b"connection: close\r\n" if n % 3 == 2 else b""
        head = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (close, len(body))
        scripts.append(raw(head + body, then="close" if close else "keep"))
    async with FakeVllm(scripts) as worker, running_plane([worker]) as plane, plane.client() as client:
        got = [await client.ask(chat()) for _ in bodies]
        assert [g.body for g in got] == bodies
        assert all("connection" not in g.headers for g in got)
        assert plane.data_plane.num_worker_connections["w0"][0] <= 1
