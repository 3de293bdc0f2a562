"""A head that a connection has sent before: what the parser made of it need not be made again.

Clients of an API send the same head with every request of a connection, but for the length. The parser read it once
and it passed every check; when the next read begins with the very same bytes, has another length of nothing but
digits in the same place and ends with that many bytes, the parser would say the same of it. Anything else goes to the
parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.incoming import IncomingRequest
from gateway.openai_api import MODEL_PATHS

if TYPE_CHECKING:
    from gateway.api_keys import ApiKeys
    from gateway.http.settings import HttpSettings

LENGTHS = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
"""The line as it is usually written."""
MAX_DIGITS = 9
"""Of a length: no 64-bit counter comes near its end."""
MAX_KNOWN_BYTES = 4_096
"""Of a head that is kept."""


class KnownHead:
    """Two pieces of bytes, before and after the length, and the request that was made of them, which is used again."""

    __slots__ = ("_after", "_api_keys", "_before", "_settings", "incoming")

    def __init__(
        self,
        before: bytes,
        after: bytes,
        incoming: IncomingRequest,
        settings: HttpSettings,
        api_keys: ApiKeys | None,
    ) -> None:
        self._before = before
        self._after = after
        self.incoming = incoming
        self._settings = settings
        self._api_keys = api_keys

    def was_read_under(self, settings: HttpSettings, api_keys: ApiKeys | None) -> bool:
        """Whether the limits and keys by which the request was allowed are those of now."""
        return self._settings is settings and self._api_keys is api_keys

    def body_start(self, data: bytes) -> int:
        """Where the body begins in ``data``, which is one whole request with this head and a body; 0 if it is not."""
        before = self._before
        if not data.startswith(before):
            return 0
        at = len(before)
        end = data.find(b"\r", at, at + MAX_DIGITS + 1)
        if not data[at:end].isdigit() or not data.startswith(self._after, end):
            return 0
        start = end + len(self._after)
        return start if len(data) - start == int(data[at:end]) else 0


def known_head(
    data: bytes, incoming: IncomingRequest, settings: HttpSettings, api_keys: ApiKeys | None
) -> KnownHead | None:
    """Of ``data``, one whole read of which the parser made ``incoming``; None where its head is not to be kept.

    Only what the parser read from the first byte to the last counts, only requests to models, and nothing by which
    the connection itself changes: those are rare.
    """
    if (
        incoming.path not in MODEL_PATHS
        or incoming.method != b"POST"
        or incoming.http10
        or not incoming.keep_alive
        or incoming.transfer_encoding
        or incoming.expect
        or incoming.upgrade
    ):
        return None
    head_bytes = len(data) - len(incoming.body)
    if head_bytes > MAX_KNOWN_BYTES or not data.startswith(b"POST ") or data.find(b"\r\n\r\n") + 4 != head_bytes:
        return None
    for name in LENGTHS:
        at = data.find(name, 0, head_bytes) + len(name)
        if at >= len(name):
            end = data.find(b"\r", at)
            known = KnownHead(data[:at], data[end:head_bytes], incoming, settings, api_keys)
            return known if known.body_start(data) == head_bytes else None
    return None
