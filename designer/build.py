"""Which code this is: what a report names, and what two machines must have alike to simulate alike."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import designer
import gateway
import policies


@cache
def build() -> Mapping[str, str]:
    """All that must be the same on two machines for their simulations to be: versions, and the sources themselves."""
    try:
        ranvier = version("ranvier")
    except PackageNotFoundError:
        ranvier = "not installed"
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ranvier": ranvier,
        "sources": _sources(),
    }


def _sources() -> str:
    """A digest of this package's Python and tables, by their names."""
    digest = hashlib.sha256()
    for package in (designer, gateway, policies):
        root = Path(str(package.__file__)).parent
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".toml")):
            digest.update(f"{root.name}/{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
