"""Sockets for every address of a host, or a clear error and none."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.errors import StartError
from gateway.listeners import _listen, bound, listeners


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@IPV6
def test_both_families_have_the_same_port() -> None:
    sockets = listeners("", 0, "--port")
    assert {one.family for one in sockets} == {socket.AF_INET, socket.AF_INET6}
    (port,) = {one.getsockname()[1] for one in sockets}
    for address in ("127.0.0.1", "::1"):
        socket.create_connection((address, port)).close()
    for one in sockets:
        assert not one.get_inheritable()
        one.close()


@IPV6
def test_ipv6_leaves_ipv4_alone() -> None:
    """Whatever ``net.ipv6.bindv6only`` says: both may be bound beside each other."""
    with _listen(socket.AF_INET6, ("::", 0), False) as six:
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        with _listen(socket.AF_INET, ("0.0.0.0", six.getsockname()[1]), False):
            pass


def test_a_port_that_cannot_be_had_leaves_no_socket_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = num_open()
        with pytest.raises(StartError) as caught:  # it holds the frame, and so would keep a socket
            listeners("127.0.0.1", taken.getsockname()[1], "--port")
        assert num_open() == before
        assert "give another --port" in str(caught.value)


def test_a_name_without_an_address_is_one_line() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1 port 0: .*; give another --port"):
        listeners("192.0.2.1", 0, "--port")


@pytest.mark.parametrize("host", ["x..y", "a" * 70])
async def test_what_is_no_name_at_all_is_one_line(host: str) -> None:
    with pytest.raises(StartError, match=r"cannot listen on .*: it is no name of a host"):
        listeners(host, 0, "--port")

    async def listen(host: str, port: int) -> int:
        await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
        return port

    with pytest.raises(StartError, match=r"cannot listen on .*: it is no name of a host"):
        await bound(listen, host, 0, "--port")


@IPV6
def test_when_the_second_address_is_taken_the_first_is_let_go() -> None:
    with _listen(socket.AF_INET6, ("::", 0), False) as taken:
        before = num_open()
        with pytest.raises(StartError):
            listeners("", taken.getsockname()[1], "--port")
        assert num_open() == before
