"""Lines to files, from the event loop, without waiting for a disk: a thread writes what the loop hands over.

The buffer is bounded. When the disk is too slow for it, lines are dropped and counted, and the place where they
are missing is marked in the file, so that nobody takes the log for complete.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
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
        max_files: with one more, the oldest is deleted.
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
        self._lost = 0
        self._stop = threading.Event()
        self._number = self._last_number()
        self._size = 0
        self.num_lines = 0
        """Handed over and not lost."""
        self.num_lost = 0
        self.last_error = ""
        try:
            self._open_next()
        except OSError as error:
            raise StartError(f"{self.path}: cannot be written: {error.strerror}; name a writable directory") from None
        self._thread = threading.Thread(target=self._run, name=f"write {prefix}", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file being written."""
        return self._folder / f"{self._prefix}-{self._number:06d}.jsonl"

    def write(self, line: bytes) -> None:
        """Hands over one line, without its line break. Never waits."""
        lines = self._lines
        if len(lines) >= self._max_lines:
            self._lost += 1
            self.num_lost += 1
            return
        if self._lost:
            lines.append(self._gap(self._lost))
            self._lost = 0
        lines.append(line)
        self.num_lines += 1

    def close(self) -> None:
        """Writes what was handed over and ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_WRITE_SECONDS):
            self._flush()
        if self._lost:
            self._lines.append(self._gap(self._lost))
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        lines.append(b"")
        data = b"\n".join(lines)
        try:
            if self._size and self._size + len(data) > self._max_file_bytes:
                self._file.close()
                self._open_next()
            self._size += self._file.write(data)
            self.last_error = ""
        except OSError as error:
            self._failed(len(lines) - 1, error)

    def _failed(self, num_lines: int, error: OSError) -> None:
        self._lost += num_lines
        self.num_lost += num_lines
        if not self.last_error:
            log.error("log file cannot be written", extra={"path": str(self.path), "error": str(error)})
        self.last_error = str(error)

    def _open_next(self) -> None:
        self._number += 1
        self._file = self.path.open("xb", buffering=0)
        self._size = 0
        head = self._head(self._number)
        if head is not None:
            self._size = self._file.write(head + b"\n")
        for old in sorted(self._folder.glob(f"{self._family}-*.jsonl"))[: -self._max_files]:
            old.unlink(missing_ok=True)

    def _last_number(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"{self._folder}: cannot be made: {error.strerror}; name a writable directory") from None
        numbers = [p.stem.rpartition("-")[2] for p in self._folder.glob(f"{self._prefix}-*.jsonl")]
        return max((int(n) for n in numbers if n.isdigit()), default=0)
