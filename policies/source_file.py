"""Files that a person names, read so that a slip of the hand (a device, a pipe, a data set) ends at once."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MAX_SOURCE_BYTES = 1_000_000
"""Of a policy: thousands of times more than one needs."""


def read_source(path: Path, most: int = MAX_SOURCE_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes.

    Raises:
        OSError: it cannot be read, is a device, pipe or folder, or is larger; ``strerror`` says which.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer, and a device has no end
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"Larger than {most:,} bytes", str(path))
    return data
