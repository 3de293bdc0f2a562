"""What ran is what runs again after the process: by its bytes, and not if it may be what ended the last one."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from gateway.core.commands import PolicySetRetired
from gateway.errors import PolicyRefusedError, StartError
from gateway.policy_state import TRIAL_SECONDS, LastEnd, PolicyState
from tests.gateway.test_policy_files import GOOD, Bench


class Life:
    """One process after another over the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mine.py").write_text(GOOD)

    async def start(self, configured: str = "least_loaded", end: LastEnd | None = None) -> Bench:
        bench = Bench(self.folder, PolicyState(self.folder / "state"))
        await bench.files.start("p", configured, end)
        return bench

    def age(self, seconds: float) -> None:
        """As if the sets had been loaded so much earlier."""
        file = self.folder / "state" / "p.json"
        value = json.loads(file.read_text())
        for one in value["sets"]:
            one["loaded_at"] -= seconds
        file.write_text(json.dumps(value))

    @property
    def kept_file(self) -> Path:
        (path,) = (self.folder / "state" / "files").glob("*/mine.py")
        return path


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


async def end(bench: Bench, *, clean: bool) -> None:
    if clean:
        await bench.files.ended()
    bench.files.close()


async def test_what_was_loaded_runs_again_from_its_own_bytes(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py:last=true")
    await end(first, clean=True)
    (life.folder / "mine.py").unlink()
    second = await life.start()
    assert second.running[1] == "mine"
    shown = second.files.pool("p").describe()
    assert shown["current"]["slots"]["routing"]["params"] == {"last": True}
    assert (shown["current"]["specs"], shown["current"]["origin"]) == ("mine.py:last=true", "restored")
    await end(second, clean=True)


@pytest.mark.parametrize("configured", ["least_loaded", "random"])
async def test_what_ran_before_can_be_rolled_back_to_after_a_restart(life: Life, configured: str) -> None:
    first = await life.start(configured)
    await first.files.load("p", "mine.py")
    await first.files.load("p", "round_robin")
    await end(first, clean=True)
    second = await life.start(configured)
    shown = second.files.pool("p").describe()
    assert shown["current"]["specs"] == "round_robin"
    assert len(shown["can_roll_back_to"]) == 2
    assert (await second.files.rollback("p")).text == "mine.py"
    assert second.running[1] == "mine"
    await end(second, clean=True)
    third = await life.start(configured)
    assert third.running[1] == "mine"
    assert (await third.files.rollback("p")).text == configured
    with pytest.raises(PolicyRefusedError, match="no earlier policy set"):
        await third.files.rollback("p")
    await end(third, clean=True)


async def test_what_cannot_be_put_back_is_left_out_of_what_can_be_rolled_back_to(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py")
    await first.files.load("p", "round_robin")
    await end(first, clean=True)
    life.kept_file.write_text("raise SystemExit('executed')\n")
    second = await life.start()
    assert second.running[1] == "routing/round_robin"
    assert (await second.files.rollback("p")).text == "least_loaded"
    await end(second, clean=True)


async def test_the_guard_goes_back_to_what_ran_before_the_restart(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py")
    await end(first, clean=True)
    second = await life.start()
    generation = second.dispatcher.pools["p"].policy_set.generation
    below = second.files.pool("p").stack[-2]
    second.files.retired(PolicySetRetired("p", generation, below, "it raised"))
    assert second.files.pool("p").describe()["current"]["specs"] == "least_loaded"
    await end(second, clean=False)


async def test_a_configuration_that_names_others_wins(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py")
    await end(first, clean=True)
    second = await life.start("random")
    assert second.running[1] == "routing/random"
    await end(second, clean=True)


async def test_bytes_that_were_changed_are_refused(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py")
    await end(first, clean=True)
    life.kept_file.write_text("raise SystemExit('executed')\n")
    second = await life.start()
    assert second.running[1] == "routing/least_loaded"
    refused = [entry for entry in second.files.pool("p").log if not entry["ok"]]
    assert "its bytes were changed since it was kept" in refused[0]["message"]
    assert ("p", "restored", False) in second.swaps.seen
    await second.files.load("p", "mine.py")  # as the refusal says
    await end(second, clean=True)
    third = await life.start()
    assert third.running[1] == "mine"
    await end(third, clean=True)


async def test_a_configured_file_that_broke_meanwhile_runs_as_it_last_ran(life: Life) -> None:
    first = await life.start("mine.py")
    await end(first, clean=True)
    (life.folder / "mine.py").write_text("def create(:\n")
    second = await life.start("mine.py")
    assert second.running[1] == "mine"
    await end(second, clean=True)
    (life.folder / "mine.py").write_text(GOOD + "# better\n")
    third = await life.start("mine.py")
    source = third.dispatcher.pools["p"].policy_set.sources[0].source
    assert source.endswith("# better\n")
    await end(third, clean=True)


@pytest.mark.parametrize("configured", ["least_loaded", "mine.py"])
async def test_bytes_that_were_asked_for_are_asked_for_after_a_restart(life: Life, configured: str) -> None:
    """Whether the file changes while no process runs or while the next one follows it; until another is loaded."""
    file = life.folder / "mine.py"
    asked = {"mine.py": hashlib.sha256(file.read_bytes()).hexdigest()}
    first = await life.start(configured)
    await first.files.load("p", "mine.py", sha256=asked)
    await end(first, clean=True)
    file.write_text(GOOD + "# changed between\n")
    for _ in range(2):
        second = await life.start(configured)
        assert not second.dispatcher.pools["p"].policy_set.sources[0].source.endswith("# changed between\n")
        file.write_text(GOOD + "# changed after\n")
        await second.files._load_changed()
        assert "not the expected" in second.files.pool("p").describe()["last_error"]["message"]
        assert not second.dispatcher.pools["p"].policy_set.sources[0].source.endswith("# changed after\n")
        file.write_text(GOOD + "# changed between\n")
        await end(second, clean=True)
    third = await life.start(configured)
    await third.files.load("p", "mine.py")
    await end(third, clean=True)
    fourth = await life.start(configured)
    file.write_text(GOOD + "# followed again\n")
    await fourth.files._load_changed()
    assert fourth.dispatcher.pools["p"].policy_set.sources[0].source.endswith("# followed again\n")
    await end(fourth, clean=True)


async def test_a_file_that_is_broken_from_the_first_ends_the_start(life: Life) -> None:
    (life.folder / "mine.py").write_text("def create(:\n")
    with pytest.raises(PolicyRefusedError, match=r"mine\.py:1"):
        await life.start("mine.py")


@pytest.mark.parametrize(
    ("how", "age", "runs"),
    [
        (None, 0.0, "routing/least_loaded"),
        ("crashed", 0.0, "routing/least_loaded"),
        ("crashed", TRIAL_SECONDS + 1, "mine"),
        ("stopped", 0.0, "mine"),
        ("stuck", TRIAL_SECONDS + 1, "routing/least_loaded"),
    ],
)
async def test_what_may_have_ended_the_process_is_not_loaded_again(
    life: Life, how: LastEnd | None, age: float, runs: str
) -> None:
    first = await life.start()
    await first.files.load("p", "mine.py")
    await end(first, clean=False)
    life.age(age)
    second = await life.start(end=how)
    assert second.running[1] == runs
    await end(second, clean=True)


async def test_a_configured_set_that_ended_the_process_gives_way_to_the_builtin(life: Life) -> None:
    await end(await life.start("mine.py"), clean=False)
    second = await life.start("mine.py", "stuck")
    assert second.running[1] == "routing/least_loaded"
    await end(second, clean=True)


async def test_a_rollback_is_what_is_restored(life: Life) -> None:
    first = await life.start()
    await first.files.load("p", "random")
    await first.files.load("p", "mine.py")
    await first.files.rollback("p")
    await end(first, clean=True)
    second = await life.start()
    assert second.running[1] == "routing/random"
    await end(second, clean=True)


async def test_state_that_cannot_be_read_is_as_none(life: Life) -> None:
    await end(await life.start(), clean=True)
    for text in ("{", "{}", '{"format": 99}'):
        (life.folder / "state" / "p.json").write_text(text)
        assert PolicyState(life.folder / "state").read("p") is None
        await end(await life.start("random"), clean=True)


def grow_old(path: Path) -> None:
    os.utime(path, (1.0, 1.0))


async def test_kept_files_that_no_set_names_any_more_go_but_not_at_once(life: Life) -> None:
    """A process that takes over may have kept a file and not yet written which set it belongs to."""
    bench = await life.start()
    await bench.files.load("p", "mine.py")
    files = life.folder / "state" / "files"
    (used,) = files.iterdir()
    for name in ("spare", "new"):
        (files / name).mkdir()
        (files / name / "x.py").write_text("x")
    for left in (life.folder / "state" / ".new-old", used / ".new-old"):
        left.write_text("half of it")
        grow_old(left)
    (life.folder / "state" / ".new-young").write_text("being written")
    grow_old(files / "spare")
    grow_old(used)
    await bench.files.load("p", "least_loaded")
    await end(bench, clean=False)
    assert {path.name for path in files.iterdir()} == {used.name, "new"}
    assert [path.name for path in used.iterdir()] == ["mine.py"]
    assert [path.name for path in (life.folder / "state").glob(".new-*")] == [".new-young"]


async def test_what_cannot_be_written_leaves_no_half_file(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    bench = await life.start()
    file = life.folder / "state" / "p.json"
    file.unlink()
    file.mkdir()  # so that nothing can take its place
    await bench.files.load("p", "mine.py")
    assert bench.running[1] == "mine"
    await end(bench, clean=False)
    assert "policies not saved for the next start" in caplog.text
    assert not list((life.folder / "state").glob(".new-*"))


def test_the_folder_is_the_gateways_own(tmp_path: Path) -> None:
    PolicyState(tmp_path / "a" / "state").close()
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "state" / "files").chmod(0o720)
    with pytest.raises(StartError, match=r"files: can be written by others \(mode 0720\), .* executed; .* mode 0700"):
        PolicyState(tmp_path / "a" / "state")
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(0o777)
    with pytest.raises(StartError, match=r"b: can be written by others \(mode 0777\)"):
        PolicyState(tmp_path / "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(StartError, match="belongs to user 12345, not 0, and what is kept there is executed"):
        PolicyState(tmp_path)


async def test_the_event_loop_does_not_wait_for_the_disk(life: Life) -> None:
    """What the guard retires is written while the loop goes on."""
    state = PolicyState(life.folder / "state")
    go_on = threading.Event()
    written = state.later(lambda: (go_on.wait(10), None)[1], "p")
    assert not written.done()
    go_on.set()
    state.close()
    assert written.done()


async def test_a_set_that_is_retired_at_the_very_end_is_not_written_any_more(life: Life) -> None:
    bench = await life.start()
    await bench.files.load("p", "mine.py")
    await end(bench, clean=True)
    written = (life.folder / "state" / "p.json").read_bytes()
    bench.files.retired(PolicySetRetired("p", 2, 1, "at the end"))
    assert (life.folder / "state" / "p.json").read_bytes() == written
