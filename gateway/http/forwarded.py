"""``X-Forwarded-For``, ``-Proto`` and ``-Host``: whom the worker is told the request came from. No ``Via`` is added."""

from __future__ import annotations

import asyncio

from gateway.http.incoming import IncomingRequest

_NAMES = (b"x-forwarded-for:", b"x-forwarded-proto:", b"x-forwarded-host:", b"forwarded:")


def tell_origin(incoming: IncomingRequest, transport: asyncio.Transport, *, trusted: bool) -> None:
    """Writes the three lines. ``trusted``: what is there is kept, and the peer added to the addresses; otherwise what
    is there is dropped first. ``Forwarded`` (RFC 7239) is only ever kept or dropped."""
    kept = [line for line in incoming.headers if not line.lower().startswith(_NAMES)]
    said = incoming.headers if trusted else kept
    peer = transport.get_extra_info("peername")
    address = peer[0].encode("ascii", "replace") if peer else b"unknown"
    before = [line.partition(b":")[2].strip() for line in said if line.lower().startswith(b"x-forwarded-for:")]
    if trusted:
        kept = [line for line in said if not line.lower().startswith(b"x-forwarded-for:")]
    kept.append(b"x-forwarded-for: %b\r\n" % b", ".join([*before, address]))
    scheme = b"http" if transport.get_extra_info("sslcontext") is None else b"https"
    for name, value in ((b"x-forwarded-proto", scheme), (b"x-forwarded-host", incoming.host)):
        if value and not any(line.lower().startswith(name + b":") for line in kept):
            kept.append(b"%b: %b\r\n" % (name, value))
    incoming.headers = kept
