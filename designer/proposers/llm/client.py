"""The HTTP client under the SDK: it talks to one host, sends it what is meant for it, and reads no more than fits."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator
from typing import Any

import httpx

_SENT = ("accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent")
"""Headers that leave, besides the key. The SDK would add others from its environment to whatever host it talks to."""
_CONNECT_SECONDS = 15.0
"""Until a connection is made; whoever answers at all does so sooner."""
LONGEST_BODY = 16 * 1024 * 1024
"""Bytes of a whole answer; what is longer is no reply of a model."""


def limits(seconds: float) -> httpx.Timeout:
    """Of silence on a connection, and of making one."""
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))


def make_client(base_url: str, key: str, seconds: float) -> httpx.AsyncClient:
    """For the host of ``base_url`` and no other: redirects are answers, not followed.

    Args:
        key: for the authorization header.
        seconds: of silence on the connection, at most.
    """
    home = httpx.URL(base_url)
    own = home.host == "api.openai.com"

    async def leaving(request: httpx.Request) -> None:
        if (request.url.scheme, request.url.host, request.url.port) != (home.scheme, home.host, home.port):
            raise httpx.UnsupportedProtocol("a request to another host than the configured one was stopped")
        for name in [] if own else list(request.headers):
            if name not in _SENT:
                del request.headers[name]
        request.headers["authorization"] = f"Bearer {key}"
        request.headers["accept-encoding"] = "identity"

    async def arriving(response: httpx.Response) -> None:
        stream: Any = response.stream
        response.stream = _Repaired(stream, "content-encoding" not in response.headers)

    return httpx.AsyncClient(
        follow_redirects=False,
        # By plain HTTP a proxy of the environment would read the key.
        trust_env=home.scheme == "https",
        timeout=limits(seconds),
        event_hooks={"request": [leaving], "response": [arriving]},
    )


class _Repaired(httpx.AsyncByteStream):
    """A body as UTF-8, whatever its bytes were, and not without end."""

    def __init__(self, stream: httpx.AsyncByteStream, text: bool) -> None:
        self._stream = stream
        self._text = text

    async def __aiter__(self) -> AsyncIterator[bytes]:
        decoder, read = codecs.getincrementaldecoder("utf-8")("replace"), 0
        async for part in self._stream:
            read += len(part)
            if read > LONGEST_BODY:
                raise httpx.ReadError(f"the answer is longer than {LONGEST_BODY} bytes")
            yield decoder.decode(part).encode() if self._text else part
        if self._text:
            yield decoder.decode(b"", final=True).encode()

    async def aclose(self) -> None:
        await self._stream.aclose()
