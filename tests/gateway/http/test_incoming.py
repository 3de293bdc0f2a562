"""What is noted of a client's headers and what a worker is sent of them."""

from __future__ import annotations

import pytest

from gateway.http.incoming import NOTES, IncomingRequest, is_request_id, parse_milliseconds


def request(*headers: tuple[bytes, bytes], method: bytes = b"POST", body: bytes = b"{}") -> IncomingRequest:
    incoming = IncomingRequest()
    incoming.method, incoming.target, incoming.body = method, b"/v1/x?a=b", body
    for name, value in headers:
        note = NOTES.get(name.lower())
        if note is None:
            incoming.headers.append(b"%b: %b\r\n" % (name, value))
        else:
            note(incoming, name, value)
    return incoming


def test_the_head_a_worker_gets() -> None:
    incoming = request(
        (b"Host", b"gw"), (b"X-A", b"1"), (b"Content-Type", b"application/json"), (b"X-Request-Id", b"r")
    )
    assert incoming.worker_head(b"w:1", b"/base", b"id-1") == (
        b"POST /base/v1/x?a=b HTTP/1.1\r\nhost: w:1\r\nX-A: 1\r\nContent-Type: application/json\r\n"
        b"x-request-id: id-1\r\ncontent-length: 2\r\n\r\n"
    )
    assert (incoming.request_id, incoming.content_type) == (b"r", b"application/json")


@pytest.mark.parametrize(
    ("method", "body", "has_length"), [(b"GET", b"", False), (b"GET", b"x", True), (b"POST", b"", True)]
)
def test_a_length_is_sent_where_a_body_is_meant(method: bytes, body: bytes, has_length: bool) -> None:
    assert (b"content-length" in request(method=method, body=body).worker_head(b"w", b"", b"i")) == has_length


def test_headers_named_by_connection_are_dropped() -> None:
    incoming = request((b"Connection", b"close, X-A ,x-b"), (b"X-A", b"1"), (b"x-B", b"2"), (b"X-Ab", b"3"))
    incoming.drop_named_headers()
    assert incoming.headers == [b"X-Ab: 3\r\n"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1500", 1.5),
        (b"0.5", 0.0005),
        (b"", None),
        (b"x", None),
        (b"-1", None),
        (b"0", None),
        (b"nan", None),
        (b"inf", None),
    ],
)
def test_milliseconds(value: bytes, seconds: float | None) -> None:
    assert parse_milliseconds(value) == seconds


@pytest.mark.parametrize(
    ("value", "usable"),
    [(b"a-B_0.9:/+=@~", True), (b"", False), (b"a b", False), (b'"', False), (b"\xc3\xa4", False), (b"a" * 129, False)],
)
def test_request_ids(value: bytes, usable: bool) -> None:
    assert is_request_id(value) == usable
