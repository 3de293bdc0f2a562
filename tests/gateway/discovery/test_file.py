"""Workers from a file that is followed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.discovery.file import FileWorkers, read_workers
from gateway.errors import ConfigError

ONE = "[[worker]]\nurl = 'http://x:1'\n"
TWO = ONE + "[[worker]]\nurl = 'http://x:2'\nvariant = 'l40s'\n"


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(TWO)
    rows = [{"url": "http://x:1"}, {"url": "http://x:2", "variant": "l40s"}]
    (tmp_path / "w.json").write_text(json.dumps({"worker": rows}))
    assert read_workers(tmp_path / "w.toml", ["p"]) == read_workers(tmp_path / "w.json", ["p"])
    assert [w.pool for w in read_workers(tmp_path / "w.toml", ["p"])] == ["p", "p"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker = 3", "worker: is 3; "),
        ("", "worker: is missing"),
        ("[[worker]]\nurl='http://x:1'\nzone='a'", r"worker\[0\].zone: unknown key"),
        (f"{ONE}pool = 'p'\n" * 2, "worker 'x:1' is there twice"),
        ("[[worker]]\nurl='http://x:1'\npool='r'", r"no pool is called 'r' \(p, q\)"),
        (ONE, "it must say its pool"),
        ("[[", "does not parse"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_workers(tmp_path / "w.toml", ["p", "q"])


async def test_changes_are_followed_and_a_broken_file_keeps_the_old_set(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(ONE)
    source = FileWorkers(path, ["p"])
    snapshots = source.snapshots()
    async with asyncio.timeout(20):
        assert [w.url for w in await anext(snapshots)] == ["http://x:1"]
        following = asyncio.ensure_future(anext(snapshots))
        await asyncio.sleep(0.3)  # until the watch is in place
        path.write_text("[[")
        while not source.last_error:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not following.done()
        path.with_suffix(".new").write_text(TWO)
        path.with_suffix(".new").rename(path)
        assert [w.url for w in await following] == ["http://x:1", "http://x:2"]
        assert source.last_error == ""
    await snapshots.aclose()


async def test_a_file_that_is_not_there_yet_may_come(tmp_path: Path) -> None:
    source = FileWorkers(tmp_path / "w.toml", ["p"])
    snapshots = source.snapshots()
    async with asyncio.timeout(20):
        following = asyncio.ensure_future(anext(snapshots))
        await asyncio.sleep(0.3)
        assert "cannot be read" in source.last_error
        (tmp_path / "w.toml").write_text(ONE)
        assert [w.url for w in await following] == ["http://x:1"]
    await snapshots.aclose()
