"""What is said of certificate files that cannot be used; tests/gateway/http/test_tls_port.py has the connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import TlsSection, WorkerTlsSection
from gateway.errors import ConfigError
from gateway.tls import ServerTls, worker_context
from tests.support.certificates import Authority, needs_openssl


@needs_openssl
@pytest.mark.parametrize("fault", ["missing", "mismatch", "ca"])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, fault: str) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    _, other = authority.issue("other")
    settings = {
        "missing": TlsSection(cert=str(tmp_path / "none.pem"), key=str(key)),
        "mismatch": TlsSection(cert=str(cert), key=str(other)),
        "ca": TlsSection(cert=str(cert), key=str(key), client_ca=str(key)),
    }[fault]
    with pytest.raises(ConfigError, match=r"^tls\.") as failure:
        ServerTls(settings, Path)
    assert "\n" not in str(failure.value)


def test_workers_are_trusted_as_the_system_does_unless_told_otherwise() -> None:
    assert worker_context(WorkerTlsSection(), Path) is None
    with pytest.raises(ConfigError, match=r"^worker_tls\.ca: none\.pem: No such file"):
        worker_context(WorkerTlsSection(ca="none.pem"), Path)
