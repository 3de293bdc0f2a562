"""One process at a time goes on with a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from designer.ledger import LedgerError

LOCK_FILE = "going-on.lock"
"""Locked while a process goes on with the run, and holds that process's id."""


@contextlib.contextmanager
def going_on(folder: Path) -> Iterator[None]:
    """No other process of this machine can go on with the run meanwhile. A process that dies, however, lets go.

    Raises:
        LedgerError: another one does, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        file = path.open("a+")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LedgerError(
                f"{folder}: process {_told(path)} is going on with this run; wait for it, or stop it and "
                f"designer resume {folder}"
            ) from None
        with contextlib.suppress(OSError):  # a full disk is the ledger's to tell
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


def _told(path: Path) -> str:
    return path.read_text(errors="replace")[:20].strip() or "(unknown)"
