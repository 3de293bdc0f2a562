"""What a person names as a file is read whole, and never without end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies.conformance import check_source
from policies.loader import PolicyLoadError, load_policies, parse_specs
from policies.source_file import MAX_SOURCE_BYTES, read_source


def test_the_bytes_are_the_files(tmp_path: Path) -> None:
    path = tmp_path / "p.py"
    path.write_bytes(b"x" * MAX_SOURCE_BYTES)
    assert read_source(path) == path.read_bytes()


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe.py", tmp_path / "large.py"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_SOURCE_BYTES + 1))
    for path, reason in (
        (pipe, "Not a regular file"),
        (Path("/dev/zero"), "Not a regular file"),
        (tmp_path, "Is a directory"),
        (large, "Larger than 1,000,000 bytes"),
        (tmp_path / "none.py", "No such file or directory"),
    ):
        with pytest.raises(OSError) as caught:
            read_source(path)
        assert caught.value.strerror == reason


def test_a_policy_that_is_a_device_is_refused_in_one_line(tmp_path: Path) -> None:
    endless = tmp_path / "endless.py"
    endless.symlink_to("/dev/zero")
    with pytest.raises(PolicyLoadError, match=r"Not a regular file; name a readable .py file"):
        check_source(endless)
    with pytest.raises(PolicyLoadError, match="Not a regular file"):
        load_policies(parse_specs(str(endless)), seed=0)
