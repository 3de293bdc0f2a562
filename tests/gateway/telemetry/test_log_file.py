"""Lines to files: complete, or with the loss marked; bounded on disk and in memory."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import StartError
from gateway.telemetry.log_file import LogFile, own_folder


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


def test_two_that_share_a_folder_never_write_into_each_others_files(tmp_path: Path) -> None:
    """Both count from the same number; the one that comes later takes the next that is free."""
    first, second = (LogFile(tmp_path, "x", max_file_bytes=10) for _ in range(2))
    for number in range(3):
        for name, log in ((b"first", first), (b"second", second)):
            log.write(b"%s %d" % (name, number))
            log._flush()
    first.close()
    second.close()
    written = lines(tmp_path)
    assert all(len({line.split()[0] for line in part}) == 1 for part in written)
    assert sorted(line for part in written for line in part) == sorted(
        f"{name} {number}" for name in ("first", "second") for number in range(3)
    )
    assert (first.num_lost, second.num_lost) == (0, 0)


def test_a_file_that_another_writes_is_not_deleted_until_it_is_done(tmp_path: Path) -> None:
    old = LogFile(tmp_path, "events-1", family="events")
    new = LogFile(tmp_path, "events-2", family="events", max_file_bytes=10, max_files=1)
    for number in range(3):
        new.write(b"a line of %d" % number)
        new._flush()
    old.write(b"still here")
    old.close()
    assert old.path.read_text() == "still here\n"
    new.write(b"one more")
    new.close()
    assert not old.path.exists()


def test_a_folder_belongs_to_one_process_while_it_runs(tmp_path: Path) -> None:
    first, held = own_folder(tmp_path, "0")
    second, other = own_folder(tmp_path, "0")
    assert (first.name, second.name) == ("0-1", "0-2")
    os.close(held)
    again, held = own_folder(tmp_path, "0")
    assert again == first
    os.close(held)
    os.close(other)
