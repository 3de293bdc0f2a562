"""Clients that read or write slowly, and those that do neither any more."""

from __future__ import annotations

import asyncio
import socket
import sys
from fcntl import ioctl
from termios import TIOCOUTQ

from gateway.http.incoming import IncomingRequest
from gateway.http.settings import HttpSettings

_RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"


class Unread:
    """What a client has too much of to read."""

    __slots__ = ("_num_unsent", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        """Coarse time since when it has read nothing; None while it keeps up."""
        self._num_unsent = 0
        """What it had to read when it was last looked at."""

    def begins(self, now: float) -> None:
        self.since = now
        self._num_unsent = 0

    def is_stuck(self, transport: asyncio.Transport, now: float, since: float, limit_seconds: float) -> bool:
        """It has read nothing for too long: a slow reader is waited for."""
        before, self._num_unsent = self._num_unsent, num_unsent(transport)
        if self._num_unsent < before:
            self.since = now
            return False
        return 0 < limit_seconds < now - since


class Upload:
    """A request whose body was seen to come by the sweeper."""

    __slots__ = ("_incoming", "_since")

    def __init__(self) -> None:
        self._incoming: IncomingRequest | None = None
        self._since = 0.0

    def is_too_slow(self, incoming: IncomingRequest, num_bytes: int, now: float, settings: HttpSettings) -> bool:
        """Measured from the first look at it, so that a body that comes fast costs nothing."""
        if self._incoming is not incoming:
            self._incoming, self._since = incoming, now
        elapsed = now - self._since
        return (
            0 < settings.body_timeout_seconds < elapsed and num_bytes < elapsed * settings.min_upload_bytes_per_second
        )


def reset(transport: asyncio.Transport) -> None:
    """Closes so that the client is told of an error, not of an end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def num_unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken, here and (where the system tells) in the kernel, whose buffer of megabytes
    would hide what a slow reader reads."""
    try:
        queued = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
