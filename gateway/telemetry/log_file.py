"""Lines to files, from the event loop, without waiting for a disk: a thread writes what the loop hands over.

The buffer is bounded. When the disk is too slow for it, lines are dropped and counted, and the place where they
are missing is marked in the file, so that nobody takes the log for complete.

Several processes may write to one folder, as the one that drains and the one that follows it do: each makes files of
its own and keeps the one it writes locked, so that no other deletes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from itertools import count
from pathlib import Path

from gateway.errors import StartError

log = logging.getLogger(__name__)

_WRITE_SECONDS = 0.2


class LogFile:
    """Numbered files ``PREFIX-000001.jsonl`` in a directory, the next one begun at ``max_file_bytes``.

    Args:
        family: what the names of all files begin with that ``max_files`` counts together; empty: the prefix.
        head: the first line of each file, without its line break; called when a file is begun.
        gap: the line that stands for so many lost ones.
        max_files: with one more, the oldest that nobody writes is deleted.
        max_lines: waiting to be written.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        family: str = "",
        head: Callable[[int], bytes | None] = lambda number: None,
        gap: Callable[[int], bytes] = lambda lost: b'{"lost_records":%d}' % lost,
        max_file_bytes: int = 64 * 1024 * 1024,
        max_files: int = 16,
        max_lines: int = 100_000,
    ) -> None:
        self._folder, self._prefix, self._family = folder, prefix, family or prefix
        self._head, self._gap = head, gap
        self._max_file_bytes, self._max_files, self._max_lines = max_file_bytes, max_files, max_lines
        self._lines: list[bytes] = []
        """The loop appends, the thread takes from the front: never another list, so that no line falls between."""
        self._unmarked = 0
        """Lines the loop found no room for since the last one it handed over."""
        self._unwritten = 0
        """Lines the thread could not write since the last that it could."""
        self._num_dropped = self._num_failed = 0
        self._num_handed_over = 0
        self._stop = threading.Event()
        self._number = self._last_number()
        self._file: FileIO | None = None
        self._size = 0
        self.last_error = ""
        try:
            self._open_next()
        except OSError as error:
            path = self._path(self._number + 1)
            raise StartError(f"{path}: cannot be written: {error.strerror}; name a writable directory") from None
        self._thread = threading.Thread(target=self._run, name=f"write {prefix}", daemon=True)
        self._thread.start()

    @property
    def num_lines(self) -> int:
        """Handed over and not lost."""
        return self._num_handed_over - self._num_failed

    @property
    def num_lost(self) -> int:
        return self._num_dropped + self._num_failed

    @property
    def path(self) -> Path:
        """The file being written."""
        return self._path(self._number)

    def write(self, line: bytes) -> None:
        """Hands over one line, without its line break. Never waits."""
        lines = self._lines
        if len(lines) >= self._max_lines:
            self._unmarked += 1
            self._num_dropped += 1
            return
        if self._unmarked:
            lines.append(self._gap(self._unmarked))
            self._unmarked = 0
        lines.append(line)
        self._num_handed_over += 1

    def close(self) -> None:
        """Writes what was handed over and ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_WRITE_SECONDS):
            self._flush()
        if self._unmarked:
            self._lines.append(self._gap(self._unmarked))
        self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        lines = self._lines[:]
        if not lines:
            return
        del self._lines[: len(lines)]
        marks = [self._gap(self._unwritten)] if self._unwritten else []
        try:
            self._append(b"\n".join((*marks, *lines, b"")))
        except OSError as error:
            self._failed(len(lines), error)
        else:
            self._unwritten, self.last_error = 0, ""

    def _append(self, data: bytes) -> None:
        if self._size and self._size + len(data) > self._max_file_bytes:
            self._open_next()
        if not self._size:
            self._begin()  # its head could not be written when the file was made
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        """All of it or nothing: a full disk takes a part, which is cut off again."""
        assert self._file is not None  # noqa: S101 opened by the constructor
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.seek(self._size)
            self._file.truncate()
            raise
        self._size += len(data)

    def _failed(self, num_lines: int, error: OSError) -> None:
        self._unwritten += num_lines
        self._num_failed += num_lines
        if not self.last_error:
            log.error("log file cannot be written", extra={"path": str(self.path), "error": str(error)})
        self.last_error = str(error)

    def _open_next(self) -> None:
        number, file = self._new_file()
        if self._file is not None:
            self._file.close()
        self._file, self._size = file, 0
        self._number = number
        self._begin()
        for old in sorted(self._folder.glob(f"{self._family}-*.jsonl"))[: -self._max_files]:
            _delete_unless_written(old)

    def _new_file(self) -> tuple[int, FileIO]:
        """The next number that nobody took, and its file."""
        for number in count(self._number + 1):
            try:
                file = open(self._path(number), "xb", buffering=0, opener=_for_the_owner)  # noqa: SIM115
            except FileExistsError:
                continue
            _lock(file.fileno())
            return number, file
        raise AssertionError("numbers do not end")

    def _begin(self) -> None:
        head = self._head(self._number)
        if head is not None:
            self._write_all(head + b"\n")

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}-{number:06d}.jsonl"

    def _last_number(self) -> int:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{self._folder}: cannot be made: {error.strerror}; name a writable directory") from None
        numbers = [p.stem.rpartition("-")[2] for p in self._folder.glob(f"{self._prefix}-*.jsonl")]
        return max((int(n) for n in numbers if n.isdigit()), default=0)


def _for_the_owner(path: str, flags: int) -> int:
    """Who asked what of which model is nobody else's business."""
    return os.open(path, flags, 0o600)


def _lock(descriptor: int) -> bool:
    """Until it is closed, or the process ends. False while another process holds it; where locks are unknown, never."""
    with suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _delete_unless_written(path: Path) -> None:
    with suppress(OSError), path.open("r+b") as file:  # gone already, or not ours to delete
        if _lock(file.fileno()):
            path.unlink(missing_ok=True)


def own_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """The first of ``PREFIX-1``, ``PREFIX-2`` … that no running process has, and the descriptor that keeps it so.

    Raises:
        OSError: ``parent`` cannot be written.
    """
    for number in count(1):
        folder = parent / f"{prefix}-{number}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock(descriptor):
            return folder, descriptor
        os.close(descriptor)
    raise AssertionError("numbers do not end")
