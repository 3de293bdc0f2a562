"""Whether the modules that decide and carry requests run as machine code, and whether that still is their sources'.

``make compiled`` and the compiled wheel put extension modules beside the sources, which Python takes instead of them,
and a manifest with the hash of each source. A source edited since then is not what runs: that must be told.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
"""Where the packages lie: the working tree, or what it was installed into."""
MANIFEST = "gateway/machine_code.json"
_PACKAGES = ("gateway", "designer")

State = Literal["true", "false", "stale"]


@dataclass(frozen=True, slots=True)
class MachineCode:
    state: State
    """``stale``: at least one module runs that is not what its source says."""
    num_modules: int
    """That run as machine code."""
    stale: tuple[str, ...] = ()
    """Sources, by their path from ``ROOT``."""

    @property
    def line(self) -> str:
        """For people, at the start."""
        if self.state == "false":
            return "runs as Python; make compiled, or the compiled wheel, costs about half the CPU"
        if self.state == "true":
            return f"runs compiled: {self.num_modules} modules are machine code of the sources beside them"
        more = f" and {len(self.stale) - _MAX_NAMED} more" if len(self.stale) > _MAX_NAMED else ""
        return (
            f"runs machine code that is NOT of the sources beside it ({', '.join(self.stale[:_MAX_NAMED])}{more}): "
            "make compiled builds it anew, make pure goes back to Python"
        )


def machine_code(root: Path = ROOT) -> MachineCode:
    """Read off the disk, now: what is loaded already may be older."""
    found = sorted(_compiled(root))
    if not found:
        return MachineCode("false", 0)
    hashes = _hashes(root / MANIFEST)
    missing = [name for name in hashes if name not in found]  # runs as Python, beside others that were made with it
    stale = [name for name in found if hashes.get(name) != _hash(root / name)] + missing
    return MachineCode("stale" if stale else "true", len(found), tuple(stale))


def _compiled(root: Path) -> Iterable[str]:
    """Sources beside which lies an extension module that this Python would load."""
    for package in _PACKAGES:
        for file in (root / package).rglob("*.so"):
            module, _, suffix = file.name.partition(".")
            if f".{suffix}" in importlib.machinery.EXTENSION_SUFFIXES:
                yield str(file.relative_to(root).with_name(f"{module}.py"))


def _hashes(manifest: Path) -> dict[str, str]:
    """By source; empty where nothing that could be read says what was compiled."""
    try:
        read = json.loads(manifest.read_bytes())["sources"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(value) for name, value in read.items()} if isinstance(read, dict) else {}


def _hash(source: Path) -> str:
    try:
        return hashlib.sha256(source.read_bytes()).hexdigest()
    except OSError:
        return "gone"


_MAX_NAMED = 3
