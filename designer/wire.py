"""Messages between the designer's processes: a length, then JSON. Nothing that is read can run code."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

MAX_BYTES = 64 << 20
_LENGTH = struct.Struct(">I")


class WireError(Exception):
    """The other side has gone, or what it sent is no message."""


def send(sock: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """Send one message, and file descriptors with it."""
    payload = json.dumps(message).encode()
    data = _LENGTH.pack(len(payload)) + payload
    try:
        sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
        sock.sendall(data[sent:])
    except OSError as error:
        raise WireError(f"cannot send: {error.strerror}") from None


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Any, list[int]]:
    """The next message and its file descriptors.

    Raises:
        WireError: the other side has gone, sent too much, or sent no JSON.
        TimeoutError: the socket's own timeout.
    """
    try:
        first, fds, _, _ = socket.recv_fds(sock, _LENGTH.size, max_fds) if max_fds else (sock.recv(4), [], 0, None)
        (length,) = _LENGTH.unpack(_rest(sock, first, _LENGTH.size))
        if length > MAX_BYTES:
            raise WireError(f"a message of {length} bytes")
        return json.loads(_rest(sock, b"", length)), list(fds)
    except TimeoutError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise WireError(f"cannot receive: {error}") from None


def _rest(sock: socket.socket, data: bytes, length: int) -> bytes:
    chunks, size = [data], len(data)
    while size < length:
        chunk = sock.recv(min(length - size, 1 << 20))
        if not chunk:
            raise WireError("the other side has gone")
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
