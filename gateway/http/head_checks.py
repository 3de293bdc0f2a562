"""What a request's head must be before its body is read; what is refused here is answered and the connection closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httptools

from gateway.http.access import authorise
from gateway.http.answers import RefusedError
from gateway.http.forwarded import tell_origin
from gateway.http.incoming import METHODS, IncomingRequest
from gateway.http.settings import HttpSettings

if TYPE_CHECKING:
    from gateway.http.data_plane import DataPlane

TOO_LARGE = "The request's body is larger than %d bytes."


def admit(
    incoming: IncomingRequest,
    parser: httptools.HttpRequestParser,
    plane: DataPlane,
    transport: asyncio.Transport,
    num_read: int,
) -> None:
    """All that is asked of a head, in this order: well formed, of a known origin, allowed, and its demands be met.

    Raises:
        RefusedError: what is not.
    """
    version, settings = parser.get_http_version(), plane.settings
    method, keep_alive = parser.get_method(), parser.should_keep_alive()
    check_head(incoming, method, version, settings, num_read=num_read, keep_alive=keep_alive)
    if settings.forwarded != "pass":
        tell_origin(incoming, transport, trusted=settings.forwarded == "append")
    if plane.api_keys is not None:
        authorise(plane.api_keys, incoming, forward=settings.forward_authorization)
    _check_demands(incoming, version, settings)


def check_head(
    incoming: IncomingRequest,
    method: bytes,
    version: str,
    settings: HttpSettings,
    *,
    num_read: int,
    keep_alive: bool,
) -> None:
    """Notes what the request line says, and refuses what another reader could read otherwise.

    Args:
        num_read: bytes that came, at least as many as the head has.

    Raises:
        RefusedError: 400, 431 or 501.
    """
    incoming.method, incoming.http10, incoming.keep_alive = method, version == "1.0", keep_alive
    if method not in METHODS:
        raise RefusedError(
            501, "The method is none of those spoken here (GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS)."
        )
    incoming.path = incoming.target.partition(b"?")[0]
    if not incoming.path.startswith(b"/"):
        _take_path(incoming)
    if b"#" in incoming.target:
        raise RefusedError(400, "The request target has a fragment.")  # which a worker would cut off
    if incoming.http10:
        if incoming.transfer_encoding:  # RFC 9112, 6.1: its framing is faulty, whatever the body looks like
            raise RefusedError(400, "HTTP/1.0 has no Transfer-Encoding.")
    elif not incoming.has_host:
        raise RefusedError(400, "The request has no Host.")
    if incoming.named_by_connection:
        incoming.drop_named_headers()
    if num_read > settings.max_header_bytes:
        _count_head(incoming, settings.max_header_bytes)
    if len(incoming.headers) > settings.max_headers:
        raise RefusedError(431, "There are too many headers.")


def _check_demands(incoming: IncomingRequest, version: str, settings: HttpSettings) -> None:
    if incoming.content_length > settings.max_body_bytes:
        raise RefusedError(413, TOO_LARGE % settings.max_body_bytes)
    if version not in ("1.1", "1.0"):
        raise RefusedError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if incoming.expect and not incoming.http10 and incoming.expect.lower() != b"100-continue":
        raise RefusedError(417, "The only expectation understood is 100-continue.")


def not_http(error: httptools.HttpParserError) -> RefusedError:
    """The answer to what the parser does not take."""
    if "PRI" in str(error):  # how the parser calls the preface of HTTP/2
        return RefusedError(505, "HTTP/2 is not spoken here; please use HTTP/1.1.")
    return RefusedError(400, f"The request is not valid HTTP: {error}.")


def _count_head(incoming: IncomingRequest, limit: int) -> None:
    """Counts exactly, when what was read is more than a head may be (there may be a body in it)."""
    if len(incoming.target) + sum(map(len, incoming.headers)) > limit:
        raise RefusedError(431, "The headers are too large.")


def _take_path(incoming: IncomingRequest) -> None:
    """From an absolute URL, as a client of a forward proxy sends it, or from ``*``."""
    scheme, _, rest = incoming.target.partition(b"://")
    if scheme.lower() in (b"http", b"https"):
        at = rest.find(b"/")
        incoming.target = rest[at:] if at >= 0 else b"/"
    elif incoming.target != b"*":
        raise RefusedError(400, "The request target is not a path.")
    incoming.path = incoming.target.partition(b"?")[0]
