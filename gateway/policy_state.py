"""The sets that run, kept on disk, so that the last good one survives the process.

One JSON file a pool, replaced whole; the policies' files beside it under the hash of their bytes. What is read back
is loaded only as what it was: its identity must be the one that was written. It is code that will be executed, so the
folder must be its owner's alone to write.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gateway.core.policy_set import PolicySet
from gateway.errors import PolicyRefusedError, StartError
from policies.loader import PolicySpec

log = logging.getLogger(__name__)

LastEnd = Literal["stopped", "crashed", "stuck"]
"""How the process before this one ended: as asked; otherwise; or stopped by its supervisor for standing still."""
FORMAT = 1
MAX_SETS = 4
TRIAL_SECONDS = 60.0
"""A file that was loaded so shortly before a crash is not loaded again: it may be the cause."""
_SPARE_SECONDS = 600.0
"""What nobody needs is deleted at that age: a process that is taking over may be about to need it."""
_UNFINISHED = ".new-"


@dataclass(frozen=True, slots=True)
class SavedSet:
    """A set that ran."""

    text: str
    """The specs as they were asked for."""
    specs: tuple[PolicySpec, ...]
    """The same, pointing at the kept files, each with the identity it must have."""
    loaded_at: float
    """Seconds since the epoch."""

    @property
    def hashes(self) -> tuple[str | None, ...]:
        return tuple(spec.expected_hash for spec in self.specs)


@dataclass(frozen=True, slots=True)
class SavedPool:
    """What ran in a pool when it was last written."""

    configured: str
    """The specs of the configuration at that time."""
    sets: tuple[SavedSet, ...]
    """The last one ran; those before it are what it would have been rolled back to."""
    clean: bool
    """The process ended as asked."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """By path, the SHA-256 that files of the last set had to have, the followed ones too."""

    def pinned_of(self, choice: SavedSet | str) -> Mapping[str, str]:
        """What holds for ``choice`` after a restart as it did before."""
        last = self.sets[-1] if self.sets else None
        return self.pinned if last is not None and choice in (last, last.text) else {}

    def before(self, choice: SavedSet | str) -> Sequence[SavedSet]:
        """The sets that ran before ``choice``, the oldest first."""
        if isinstance(choice, str):
            return self.sets[:-1] if self.sets and choice == self.sets[-1].text else ()
        return self.sets[: self.sets.index(choice)]

    def last_end(self) -> LastEnd:
        """Without a supervisor that says it."""
        return "stopped" if self.clean else "crashed"

    def suspect(self, end: LastEnd, now: float) -> bool:
        """Whether the last set may be what ended the process."""
        last = self.sets[-1]
        if not any(spec.source.endswith(".py") for spec in last.specs):
            return False
        on_trial = now - last.loaded_at < TRIAL_SECONDS and last.text != self.configured
        return end == "stuck" or (end == "crashed" and on_trial)


class PolicyState:
    """Writes on a thread of its own, one thing after the other: a disk may take its time.

    Args: folder: made if it is not there; one gateway writes it at a time.

    Raises:
        StartError: others could put policies there, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = folder / "files"
        for path in (folder, self._files):
            _make_own(path)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="policy state")
        self._prune()

    def later(self, write: Callable[[], None], pool: str) -> Future[None]:
        """Carries out ``write`` after all before it. Where the disk does not take it, that is logged."""

        def written() -> None:
            try:
                write()
            except OSError as error:
                log.error("policies not saved for the next start", extra={"pool": pool, "error": str(error)})

        return self._writer.submit(written)

    def close(self, *, wait: bool = True) -> None:
        """Args: wait: for what is to be written; otherwise it is left."""
        self._writer.shutdown(wait=wait, cancel_futures=not wait)

    def saved_set(self, text: str, specs: Sequence[PolicySpec], policy_set: PolicySet, loaded_at: float) -> SavedSet:
        """Keeps the files of a set that was loaded from ``specs``."""
        kept = []
        for spec, source in zip(specs, policy_set.sources, strict=True):
            if spec.source.endswith(".py"):
                path = self._keep(Path(spec.source).name, source.source.encode())
                kept.append(replace(spec, source=str(path), expected_hash=source.policy_hash))
            else:
                kept.append(replace(spec, expected_hash=None))  # another release may improve what it ships
        return SavedSet(text, tuple(kept), loaded_at)

    def _keep(self, name: str, data: bytes) -> Path:
        path = self._files / hashlib.sha256(data).hexdigest() / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.is_file() and path.read_bytes() == data:
            os.utime(path.parent)  # its age counts from the last time that it was needed
        else:
            write_whole(path, data)
        return path

    def verify(self, saved: SavedSet) -> None:
        """Before anything of it is executed.

        Raises:
            PolicyRefusedError: a file is not there, or its bytes are not those that were kept.
        """
        for path in (Path(spec.source) for spec in saved.specs if spec.source.endswith(".py")):
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise PolicyRefusedError(f"{path}: {error.strerror}; it was kept for the next start") from None
            if found != path.parent.name:
                raise PolicyRefusedError(f"{path}: its bytes were changed since it was kept; load the policy again")

    def save(self, pool: str, saved: SavedPool) -> None:
        """OSError when the disk does not take it: what was there stays."""
        sets = [
            {"text": one.text, "loaded_at": one.loaded_at, "specs": [asdict(spec) for spec in one.specs]}
            for one in saved.sets[-MAX_SETS:]
        ]
        value = {"format": FORMAT, "configured": saved.configured, "clean": saved.clean, "sets": sets}
        value["pinned"] = dict(saved.pinned)
        write_whole(self._path(pool), json.dumps(value, indent=1, default=dict).encode())
        self._prune()

    def _prune(self) -> None:
        """Deletes kept files that no set names any more, and what a write that was cut off left; nothing in doubt."""
        with suppress(OSError):
            old = time.time() - _SPARE_SECONDS
            for left in (*self._folder.glob(f"{_UNFINISHED}*"), *self._files.glob(f"*/{_UNFINISHED}*")):
                if left.stat().st_mtime < old:
                    left.unlink(missing_ok=True)
            texts = [path.read_text(encoding="utf-8") for path in self._folder.glob("*.json")]
            for kept in self._files.iterdir():
                if kept.stat().st_mtime < old and not any(kept.name in text for text in texts):
                    shutil.rmtree(kept, ignore_errors=True)

    def read(self, pool: str) -> SavedPool | None:
        """None where nothing was written, or nothing that can be read; that is logged."""
        path = self._path(pool)
        try:
            value = json.loads(path.read_bytes())
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']!r}, not {FORMAT}")
            pinned = {str(path): str(sha256) for path, sha256 in value.get("pinned", {}).items()}
            return SavedPool(value["configured"], tuple(map(_set, value["sets"])), bool(value["clean"]), pinned)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("saved policies not read", extra={"file": str(path), "error": repr(error)})
            return None

    def _path(self, pool: str) -> Path:
        return self._folder / f"{pool}.json"


def now() -> float:
    """Seconds since the epoch: of all clocks the one that outlives a process."""
    return time.time()


def _set(value: dict[str, Any]) -> SavedSet:
    specs = tuple(
        PolicySpec(s["source"], None if s["slots"] is None else tuple(s["slots"]), s["params"], s["expected_hash"])
        for s in value["specs"]
    )
    return SavedSet(value["text"], specs, float(value["loaded_at"]))


def _make_own(folder: Path) -> None:
    """Makes it for this user alone. StartError when it is there and another may write in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise StartError(f"{folder}: cannot be made: {error.strerror}; give another policy.state_dir") from None
    if found.st_uid != os.geteuid():
        fault = f"belongs to user {found.st_uid}, not {os.geteuid()}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        fault = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise StartError(
        f"{folder}: {fault}, and what is kept there is executed; let policy.state_dir name a folder in it that is not "
        "there yet, or make it the gateway's own with mode 0700"
    )


def write_whole(path: Path, data: bytes) -> None:
    """Whole or not at all, also when the machine stops."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
