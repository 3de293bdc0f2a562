"""What a client has not taken yet."""

from __future__ import annotations

import asyncio
import sys
from fcntl import ioctl
from termios import TIOCOUTQ


def num_unsent(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken, here and (where the system tells) in the kernel, whose buffer of megabytes
    would hide what a slow reader reads."""
    try:
        queued = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
