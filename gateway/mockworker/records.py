"""A JSON line per request the worker heard, to be matched with the gateway's and the client's by request id."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Self

import orjson

_FLUSH_BYTES = 1 << 16


class RecordLog:
    """Appends records to a file, buffered; complete after ``close``.

    OSError from the constructor when the file cannot be written. Several workers of one process may share one.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=_FLUSH_BYTES)

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
