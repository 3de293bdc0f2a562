"""Lines to files: complete, or with the loss marked; bounded on disk and in memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import StartError
from gateway.telemetry.log_file import LogFile


def lines(folder: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(folder.glob("*.jsonl"))]


def test_every_line_is_there_in_order(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "new" / "folder", "x")
    for number in range(1000):
        log.write(b"%d" % number)
    log.close()
    assert lines(tmp_path / "new" / "folder") == [[str(n) for n in range(1000)]]
    assert (log.num_lines, log.num_lost) == (1000, 0)


def test_what_does_not_fit_the_buffer_is_lost_and_marked(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "x", max_lines=3, gap=lambda lost: b"lost %d" % lost)
    for number in range(5):
        log.write(b"%d" % number)
    log.close()
    assert lines(tmp_path) == [["0", "1", "2", "lost 2"]]
    assert (log.num_lines, log.num_lost) == (3, 2)


def test_a_file_has_a_head_and_a_bound_and_the_oldest_go(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "x", head=lambda part: b"part %d" % part, max_file_bytes=20, max_files=2)
    for number in range(6):
        log.write(b"a line of %d" % number)
        log._flush()
    log.close()
    assert lines(tmp_path) == [["part 5", "a line of 4"], ["part 6", "a line of 5"]]


def test_a_restart_never_writes_into_an_old_file(tmp_path: Path) -> None:
    for word in (b"first", b"second"):
        log = LogFile(tmp_path, "x")
        log.write(word)
        log.close()
    assert lines(tmp_path) == [["first"], ["second"]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="file/logs: cannot be made: Not a directory; name a writable directory"):
        LogFile(tmp_path / "file" / "logs", "x")


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process can grow to ``size`` bytes: a write takes what fits, the next fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_whole_lines_and_a_mark(tmp_path: Path) -> None:
    log = LogFile(tmp_path, "x", gap=lambda lost: b"lost %d" % lost)
    log.write(b"before")
    log._flush()
    with full_disk(10):
        log.write(b"a line that fits")
        log.write(b"only in part")
        log._flush()
    log.write(b"after")
    log.close()
    assert lines(tmp_path) == [["before", "lost 2", "after"]]
    assert (log.num_lines, log.num_lost, log.last_error) == (2, 2, "")


def test_a_next_file_whose_head_did_not_fit_gets_it_later(tmp_path: Path) -> None:
    log = LogFile(
        tmp_path, "x", head=lambda part: b"part %d" % part, gap=lambda lost: b"lost %d" % lost, max_file_bytes=20
    )
    log.write(b"a line of 0")
    log._flush()
    with full_disk(3):
        log.write(b"a line of 1")
        log._flush()
    log.write(b"a line of 2")
    log.close()
    assert lines(tmp_path) == [["part 1", "a line of 0"], ["part 2", "lost 1", "a line of 2"]]
