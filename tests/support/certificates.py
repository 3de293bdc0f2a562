"""Certificates for tests, made by the ``openssl`` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command here")


class Authority:
    """Signs certificates for 127.0.0.1; all files lie in its folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.name = folder, name
        self.file = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        _openssl("-out", self.file, "-keyout", self._key, "-subj", f"/CN={name}")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of ``name``, replaced if they are there."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
        ends = ("-addext", "basicConstraints=critical,CA:FALSE")
        _openssl("-out", cert, "-keyout", key, *subject, *ends, "-CA", self.file, "-CAkey", self._key)
        return cert, key

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows the certificate ``name``."""
        context = ssl.create_default_context(cafile=str(self.file))
        if name is not None:
            context.load_cert_chain(*self.issue(name))
        return context

    def server(self, name: str = "server") -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(name))
        return context


def _openssl(*arguments: str | Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, "-days", "30", *arguments], check=True, capture_output=True, timeout=30)
