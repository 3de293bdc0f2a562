"""One request as a client sent it: what is noted of its headers, and which of them go on to a worker.

Hop-by-hop headers (RFC 9110, 7.6.1) end here, and so do the gateway's own (``x-ranvier-…``) but for the hidden output
length of a mock worker, which no policy may see and which therefore is only ever passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.http.answers import RefusedError
from gateway.openai_api import MAX_SESSION_BYTES

if TYPE_CHECKING:
    from gateway.api_keys import ApiKey

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
"""Spoken here. The parser knows more: CONNECT, WebDAV's, even those of RTSP."""

MAX_TENANT_BYTES = 128

Note = Callable[["IncomingRequest", bytes, bytes], None]


class IncomingRequest:
    """Filled by the parser, header by header; bytes as they came."""

    __slots__ = (
        "accept_encoding",
        "authorization",
        "body",
        "content_length",
        "content_type",
        "deadline_ms",
        "expect",
        "has_host",
        "headers",
        "host",
        "http10",
        "keep_alive",
        "key",
        "method",
        "named_by_connection",
        "num_buffered_bytes",
        "path",
        "request_id",
        "session_id",
        "target",
        "tenant",
        "transfer_encoding",
        "ttft_slo_ms",
        "upgrade",
        "x_api_key",
    )

    def __init__(self) -> None:
        self.target = b""
        """Path and query as they came (an absolute URL without its origin)."""
        self.path = b""
        self.method = b""
        self.headers: list[bytes] = []
        """Lines for the worker, each with its line end."""
        self.body = b""
        self.num_buffered_bytes = 0
        """Of the body, as counted in ``DataPlane.num_buffered_body_bytes``."""
        self.http10 = False
        self.has_host = False
        self.host = b""
        self.keep_alive = True
        self.content_length = 0
        self.transfer_encoding = b""
        self.content_type = b""
        self.accept_encoding = b""
        self.expect = b""
        self.upgrade = b""
        self.named_by_connection = b""
        self.request_id = b""
        self.session_id = b""
        self.tenant = b""
        self.ttft_slo_ms = b""
        self.deadline_ms = b""
        self.authorization = b""
        self.x_api_key = b""
        self.key: ApiKey | None = None
        """The API key it bears; None where keys are off."""

    @property
    def is_head(self) -> bool:
        return self.method == b"HEAD"

    def drop_named_headers(self) -> None:
        """Drops what the ``Connection`` header names, beside ``close`` and ``keep-alive``."""
        names = tuple(name.strip().lower() + b":" for name in self.named_by_connection.split(b",") if name.strip())
        self.headers = [line for line in self.headers if not line.lower().startswith(names)]

    def worker_head(self, host: bytes, base_path: bytes, request_id: bytes, authorization: bytes = b"") -> bytes:
        """The head of the request to a worker. ``authorization``: a header line that replaces the client's own."""
        return b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%bx-request-id: %b\r\n%b\r\n" % (
            self.method,
            base_path,
            self.target,
            host,
            b"".join(self.headers) if not authorization else self._headers_with(authorization),
            request_id,
            b"content-length: %d\r\n" % len(self.body) if self.body or self.method not in _WITHOUT_BODY else b"",
        )

    def _headers_with(self, authorization: bytes) -> bytes:
        lines = [line for line in self.headers if not line.lower().startswith(b"authorization:")]
        return b"".join(lines) + authorization


_WITHOUT_BODY = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


def _drop(request: IncomingRequest, name: bytes, value: bytes) -> None:
    return


def _noted(attribute: str, *, forward: bool = False) -> Note:
    def note(request: IncomingRequest, name: bytes, value: bytes) -> None:
        setattr(request, attribute, value)
        if forward:
            request.headers.append(b"%b: %b\r\n" % (name, value))

    return note


def _named(attribute: str, max_bytes: int, *, forward: bool = False) -> Note:
    """A name that is remembered and compared: too long a one is refused."""
    note = _noted(attribute, forward=forward)

    def bounded(request: IncomingRequest, name: bytes, value: bytes) -> None:
        if len(value) > max_bytes:
            header = name.decode("latin-1").lower()
            raise RefusedError(400, f"The header {header} is longer than {max_bytes} bytes.", param=header)
        note(request, name, value)

    return bounded


def _content_length(request: IncomingRequest, name: bytes, value: bytes) -> None:
    request.content_length = int(value)


def _host(request: IncomingRequest, name: bytes, value: bytes) -> None:
    if request.has_host:
        raise RefusedError(400, "The request has more than one Host.")
    request.has_host = True
    request.host = value


def _transfer_encoding(request: IncomingRequest, name: bytes, value: bytes) -> None:
    """Only ``chunked`` and only once: what else the parser lets pass (``gzip, chunked``, an empty element before it,
    anything beside an offer to upgrade), a proxy before this one may have read in another way."""
    if request.transfer_encoding or value.strip().lower() != b"chunked":
        raise RefusedError(400, "The only Transfer-Encoding understood is chunked.")
    request.transfer_encoding = value


def _connection(request: IncomingRequest, name: bytes, value: bytes) -> None:
    if value.lower() not in (b"close", b"keep-alive"):
        request.named_by_connection += value + b","


def _own(request: IncomingRequest, name: bytes, value: bytes) -> None:
    """The gateway's own headers that carry no meaning yet end here too."""


NOTES: dict[bytes, Note] = {
    b"host": _host,
    b"connection": _connection,
    b"keep-alive": _drop,
    b"proxy-connection": _drop,
    b"proxy-authenticate": _drop,
    b"proxy-authorization": _drop,
    b"te": _drop,
    b"trailer": _drop,
    b"transfer-encoding": _transfer_encoding,
    b"upgrade": _noted("upgrade"),
    b"http2-settings": _drop,
    b"content-length": _content_length,
    b"content-type": _noted("content_type", forward=True),
    b"accept-encoding": _noted("accept_encoding"),
    b"expect": _noted("expect"),
    b"authorization": _noted("authorization", forward=True),
    b"x-api-key": _noted("x_api_key", forward=True),
    b"x-request-id": _noted("request_id"),
    b"x-session-id": _named("session_id", MAX_SESSION_BYTES, forward=True),
    b"x-ranvier-tenant": _named("tenant", MAX_TENANT_BYTES),
    b"x-ranvier-ttft-slo-ms": _noted("ttft_slo_ms"),
    b"x-ranvier-deadline-ms": _noted("deadline_ms"),
    b"x-ranvier-worker": _own,
}
"""By name in lower case; any other header is passed on."""


def parse_milliseconds(value: bytes) -> float | None:
    """Seconds; None where the header is absent or is no positive number."""
    try:
        seconds = float(value) / 1000.0
    except ValueError:
        return None
    return seconds if 0.0 < seconds < 1e9 else None


_ID_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/+=@~")
MAX_ID_BYTES = 128


def is_request_id(value: bytes) -> bool:
    """Whether a client's id may be used: 1 to 128 letters, digits and ``-_.:/+=@~``."""
    return 0 < len(value) <= MAX_ID_BYTES and _ID_BYTES.issuperset(value)
