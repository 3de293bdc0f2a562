"""One HTTP/1.1 request at a time over pooled gevent sockets, read whenever they have bytes.

Locust's own clients read a stream in pieces of a kilobyte, which is several tokens: too late for the first one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools
from gevent import Timeout, monkey, socket, ssl

from loadgen.reply import Answer, Reply

MAX_IDLE_SECONDS = 4.0
"""A connection idle for longer is not used again: uvicorn, vLLM's server, closes them after 5 seconds."""
_READ_BYTES = 65_536


class UrlError(ValueError):
    """Not a base URL this client can use; one line."""


class Client:
    """Sends to one server, named with or without ``/v1``. ``timeout`` bounds a whole request, in seconds."""

    def __init__(self, url: str, timeout: float = 600.0, connect_timeout: float = 10.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise UrlError(f"{url}: not a server's URL; write it as http://127.0.0.1:8000")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        try:
            self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        except ValueError:
            raise UrlError(f"{url}: the port must be a number up to 65535") from None
        self._host = parts.netloc.rpartition("@")[2]
        self._base_path = parts.path.rstrip("/").removesuffix("/v1")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._idle: list[tuple[Any, float]] = []

    def post(self, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        """Send a JSON body and read the whole answer. Nothing is sent twice; a failure is an ``Answer`` too."""
        answer = Answer(sent=time.perf_counter())
        reply = Reply(answer, time.perf_counter)
        try:
            with Timeout(self._timeout):
                self._exchange(self._head(path, headers, len(body)) + body, reply)
        except Timeout:
            reply.fail("timeout", f"no whole answer after {self._timeout:g} s")
        except OSError as error:
            reply.fail("connection lost" if reply.connected else "connect failed", str(error))
        except httptools.HttpParserError as error:
            reply.fail("bad response", str(error))
        answer.end = answer.end or time.perf_counter()
        reply.conclude()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for connection, _ in self._idle:
            connection.close()
        self._idle.clear()

    def _exchange(self, request: bytes, reply: Reply) -> None:
        connection = self._connection()
        reply.connected = True
        try:
            connection.sendall(request)
            while not reply.complete:
                data = connection.recv(_READ_BYTES)
                if not data:
                    reply.closed()
                    break
                reply.parser.feed_data(data)
        except BaseException:
            connection.close()
            raise
        if reply.complete and reply.keep_alive:
            self._idle.append((connection, time.perf_counter()))
        else:
            connection.close()

    def _connection(self) -> Any:
        while self._idle:
            connection, since = self._idle.pop()
            if time.perf_counter() - since < MAX_IDLE_SECONDS and not _is_readable(connection):
                return connection
            connection.close()
        connection = socket.create_connection(self._address, timeout=self._connect_timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_hostname=self._address[0])
        connection.settimeout(None)
        return connection

    def _head(self, path: str, headers: Sequence[tuple[str, str]], length: int) -> bytes:
        lines = [f"POST {self._base_path}{path} HTTP/1.1", f"host: {self._host}", "content-type: application/json"]
        lines += [f"content-length: {length}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")


def _is_readable(connection: Any) -> bool:
    """An idle connection with something to read has been closed, or is out of step."""
    poll = monkey.get_original("select", "poll")()
    poll.register(connection.fileno(), 1)  # POLLIN
    return bool(poll.poll(0))
