"""TLS of the data port, whose files may be replaced while it runs, and TLS towards workers. Nothing is ever unverified.

A connection is encrypted with what was loaded when it began; a new file is for the connections after it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from gateway.config import TlsSection, WorkerTlsSection
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

Resolve = Callable[[str], Path]
"""From a path as the configuration has it to the file."""


class ServerTls:
    """ConfigError if the files cannot be used."""

    def __init__(self, settings: TlsSection, path: Resolve) -> None:
        self._settings, self._path = settings, path
        self._latest = _server_context(settings, path)
        self.context = _server_context(settings, path)
        """What to listen with: each connection is handed on to the latest as its handshake begins."""
        self.context.sni_callback = self._take_latest  # called without a server name, too

    @property
    def files(self) -> list[Path]:
        named = (self._settings.cert, self._settings.key, self._settings.client_ca)
        return [self._path(name) for name in named if name is not None]

    def check(self) -> None:
        """ConfigError if the files as they are now cannot be used."""
        _server_context(self._settings, self._path)

    def reload(self) -> None:
        """Reads the files again. Where that fails (its key is yet to come, say), what was there stays."""
        try:
            self._latest = _server_context(self._settings, self._path)
        except ConfigError as error:
            log.error("certificate not reloaded; the one before stays", extra={"error": str(error)})
        else:
            log.info("certificate loaded", extra={"file": self._settings.cert})

    def _take_latest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._latest


def _server_context(settings: TlsSection, path: Resolve) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, "tls", settings.cert, settings.key, path)
    if settings.client_ca is not None:
        _load_ca(context, "tls.client_ca", settings.client_ca, path)
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0  # a resumed session would outlive the authority that vouched for its client
    return context


def worker_context(settings: WorkerTlsSection, path: Resolve) -> ssl.SSLContext | None:
    """For https workers; None: as everywhere, with the system's authorities. ConfigError if a file cannot be used."""
    if settings == WorkerTlsSection():
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca is None:
        context.load_default_certs()
    else:
        _load_ca(context, "worker_tls.ca", settings.ca, path)
    if settings.cert is not None:
        _load_chain(context, "worker_tls", settings.cert, settings.key or settings.cert, path)
    return context


def _load_chain(context: ssl.SSLContext, table: str, cert: str, key: str, path: Resolve) -> None:
    try:
        context.load_cert_chain(path(cert), path(key), password="")  # rather than ask on the terminal
    except OSError as error:
        why = "is no certificate with its key, in PEM and without a password" if isinstance(error, ssl.SSLError) else ""
        raise ConfigError(f"{table}.cert, {table}.key: {path(cert)}, {path(key)}: {why or error.strerror}") from None


def _load_ca(context: ssl.SSLContext, key: str, ca: str, path: Resolve) -> None:
    try:
        context.load_verify_locations(path(ca))
    except OSError as error:
        why = "holds no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{key}: {path(ca)}: {why}") from None
