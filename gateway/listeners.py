"""The sockets of a port that is to stay open longer than a process: one for each address that the host's name has."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from gateway.errors import StartError

BACKLOG = 4_096
_UNUSABLE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Of one address among several: the machine has no IPv6, say."""


def listeners(host: str, port: int, option: str, reuse_port: bool = False) -> list[socket.socket]:
    """Listens on all addresses, all with the same port; an address that this machine does not have is left out while
    another remains. ``::`` is IPv6 alone; an empty host is every address of both.

    Args:
        port: 0: any that is free.
        option: that of the command line, for the error.

    Raises:
        StartError: an address cannot be had; nothing is left open.
    """
    try:
        with ExitStack() as undo:
            listening: list[socket.socket] = []
            failed: OSError | None = None
            for family, address in _addresses(host, port):
                if listening and not port:
                    address = (address[0], listening[0].getsockname()[1], *address[2:])
                try:
                    listening.append(undo.enter_context(_listen(family, address, reuse_port)))
                except OSError as error:
                    if error.errno not in _UNUSABLE:
                        raise
                    failed = error
            if not listening:
                raise failed or OSError(errno.EADDRNOTAVAIL, "it has no address")
            undo.pop_all()
            return listening
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeError as error:  # of a label that is empty or too long
        reason = f"it is no name of a host: {error}"
    raise StartError(f"cannot listen on {host} port {port}: {reason}; give another {option}")


def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Family and address of each, once."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen(family: int, address: Any, reuse_port: bool) -> socket.socket:
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # or it takes IPv4 as well, and the address beside it cannot be had
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        undo.pop_all()
        return listener


async def bound(listen: Callable[[str, int], Awaitable[int]], host: str, port: int, option: str) -> int:
    """The port that ``listen`` got. StartError, with the option that names another, when it got none."""
    try:
        return await listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} on {host} is in use; stop what uses it or give another {option}") from None
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    except UnicodeError as error:
        raise StartError(f"cannot listen on {host} port {port}: it is no name of a host: {error}") from None
