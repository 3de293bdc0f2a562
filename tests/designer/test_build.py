"""What a machine says of the code it runs."""

from __future__ import annotations

import platform

from designer.build import build


def test_it_names_versions_and_a_digest_of_the_sources() -> None:
    told = build()
    assert told["python"] == platform.python_version()
    assert told.keys() == {"python", "numpy", "ranvier", "sources"}
    assert len(told["sources"]) == 16
    assert int(told["sources"], 16) >= 0
