"""Swaps with real files, the real check in its own process, and the real dispatcher."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from gateway.config import PolicySection
from gateway.core.commands import PolicySetRetired
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import Event, PolicySetReplaced, RequestArrived, WorkerHealthChanged, WorkerJoined
from gateway.core.pool import PoolConfig
from gateway.errors import PolicyRefusedError
from gateway.policy_files import PolicyFiles
from gateway.policy_loading import parse, spec_text
from gateway.policy_state import PolicyState

GOOD = """
def create(rng, *, last: bool = False):
    return Pick(last)


class Pick:
    def __init__(self, last):
        self.last = last

    def route(self, request, candidates, pool):
        return candidates[-1] if self.last else candidates[0]
"""


class Swaps:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def policy_swapped(self, pool: str, origin: str, ok: bool) -> None:
        self.seen.append((pool, origin, ok))


class Bench:
    """Policy files over a dispatcher without workers."""

    def __init__(self, folder: Path, saved: PolicyState | None = None, **settings: object) -> None:
        self.dispatcher = Dispatcher([PoolConfig("p")])
        self.events: list[Event] = []
        self.swaps = Swaps()
        policy = PolicySection(**settings)  # type: ignore[arg-type]
        self.files = PolicyFiles(["p"], self.submit, lambda: 1.0, policy, self.swaps, folder, saved)

    def submit(self, event: Event) -> None:
        self.events.append(event)
        for command in self.dispatcher.handle(event):
            if isinstance(command, PolicySetRetired):
                self.files.retired(command)

    @property
    def running(self) -> tuple[int, str]:
        policy_set = self.dispatcher.pools["p"].policy_set
        return policy_set.generation, policy_set.identities["routing"].name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.files.close()


async def test_a_file_is_checked_loaded_and_replaced(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    await bench.files.load("p", "least_loaded", "start")
    version = await bench.files.load("p", "./mine.py:last=true")
    assert bench.running == (2, "mine")
    assert version.describe()["slots"]["routing"]["params"] == {"last": True}
    assert [type(e) for e in bench.events] == [PolicySetReplaced, PolicySetReplaced]
    assert bench.swaps.seen == [("p", "start", True), ("p", "load", True)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def create(rng:\n", "mine.py:1"),
        ("x = 1\n", "create"),
        ("import socket\n\n\ndef create(rng):\n    return None\n", "socket"),
        (GOOD.replace("candidates[0]", "None if pool.now < 0 else 7"), "route"),
        (GOOD.replace("candidates[0]", "request.nothing"), "nothing"),
        (GOOD.replace("        return", "        while True:\n            pass\n        return"), "while"),
    ],
)
async def test_a_broken_file_is_refused_and_the_old_set_runs_on(
    bench: Bench, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    await bench.files.load("p", "least_loaded", "start")
    with pytest.raises(PolicyRefusedError) as refusal:
        await bench.files.load("p", "mine.py")
    message = str(refusal.value)
    assert reason in message and str(tmp_path / "mine.py") in message and "\n" not in message
    assert "ranvier-policies-" not in message
    assert bench.running == (1, "routing/least_loaded")
    shown = bench.files.pool("p").describe()
    assert shown["last_error"]["message"] == message
    assert bench.swaps.seen[-1] == ("p", "load", False)


async def test_code_that_hangs_in_its_check_is_killed_outside_this_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path, check_seconds=1.5)
    slow = GOOD.replace("        return", "        sum(sum(range(4000)) for _ in range(4000))\n        return", 1)
    (tmp_path / "slow.py").write_text(slow)
    with pytest.raises(PolicyRefusedError, match=r"within|SIG"):
        await bench.files.load("p", "slow.py")
    assert bench.events == []
    bench.files.close()


async def test_without_a_place_for_its_copy_a_set_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    await bench.files.load("p", "least_loaded", "start")
    bench.files.close()
    with pytest.raises(PolicyRefusedError, match="cannot be copied and checked now"):
        await bench.files.load("p", "mine.py")
    assert bench.running == (1, "routing/least_loaded")


async def test_rollback_goes_back_step_by_step_under_new_generations(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    await bench.files.load("p", "least_loaded", "start")
    await bench.files.load("p", "mine.py", "start")
    (tmp_path / "mine.py").unlink()
    await bench.files.load("p", "random", "start")
    await bench.files.rollback("p")
    assert bench.running == (4, "mine")  # from the copy: the file itself is gone
    await bench.files.rollback("p")
    assert bench.running == (5, "routing/least_loaded")
    with pytest.raises(PolicyRefusedError, match="no earlier policy set"):
        await bench.files.rollback("p")


async def test_rollback_to_a_generation(bench: Bench) -> None:
    for name in ("least_loaded", "random", "round_robin"):
        await bench.files.load("p", name, "start")
    with pytest.raises(PolicyRefusedError, match="does not keep generation 9; it keeps 1, 2"):
        await bench.files.rollback("p", 9)
    await bench.files.rollback("p", 1)
    assert bench.running == (4, "routing/least_loaded")


@pytest.mark.parametrize("said", ["mine.py", "./mine.py", "{folder}/mine.py"])
async def test_bytes_are_asked_for_by_the_path_of_the_set(bench: Bench, tmp_path: Path, said: str) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    path = said.format(folder=tmp_path)
    for name in (path, str(tmp_path / "mine.py")):
        await bench.files.load("p", path, sha256={name: hashlib.sha256(GOOD.encode()).hexdigest()})
        with pytest.raises(PolicyRefusedError, match="not the expected 00"):
            await bench.files.load("p", path, sha256={name: "00"})
    with pytest.raises(PolicyRefusedError, match=r"other\.py is no file of the set"):
        await bench.files.load("p", path, sha256={"other.py": "00"})
    assert bench.running == (2, "mine")


async def test_a_followed_file_whose_bytes_were_asked_for_is_not_followed_to_others(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    await bench.files.load("p", "mine.py", sha256={"mine.py": hashlib.sha256(GOOD.encode()).hexdigest()})
    (tmp_path / "mine.py").write_text(GOOD + "# other bytes\n")
    await bench.files._load_changed()
    assert bench.running == (1, "mine")
    assert "not the expected" in bench.files.pool("p").describe()["last_error"]["message"]
    await bench.files.load("p", "mine.py")  # by hand, without a hash: followed from here on
    (tmp_path / "mine.py").write_text(GOOD + "# more bytes\n")
    await bench.files._load_changed()
    assert bench.running == (3, "mine")


async def test_history_and_copies_are_bounded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, history=2)
    for name in ("least_loaded", "random", "round_robin", "least_tokens"):
        await bench.files.load("p", name, "start")
    assert bench.files.pool("p").describe()["can_roll_back_to"] == [3]
    assert len(list(bench.files._copies.iterdir())) == 2
    bench.files.close()
    assert not bench.files._copies.exists()


async def test_what_the_guard_does_is_in_the_books(bench: Bench) -> None:
    await bench.files.load("p", "least_loaded", "start")
    await bench.files.load("p", "random", "start")
    bench.files.retired(PolicySetRetired("p", 2, 1, "routing: exception: boom"))
    shown = bench.files.pool("p").describe()
    assert shown["current"]["generation"] == 1
    assert "boom" in shown["last_error"]["message"]
    bench.files.retired(PolicySetRetired("p", 1, 0, "again"))
    assert bench.files.pool("p").describe()["current"] is None


async def test_two_policies_in_one_slot_are_refused(bench: Bench) -> None:
    with pytest.raises(PolicyRefusedError, match="slot routing is already filled"):
        await bench.files.load("p", "least_loaded+random", "start")


async def test_an_unknown_pool_is_refused(bench: Bench) -> None:
    with pytest.raises(PolicyRefusedError, match="no pool is called 'q'; the pools are p"):
        await bench.files.load("q", "random")


@pytest.fixture
async def following(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    (tmp_path / "mine.py").write_text(GOOD)
    await bench.files.load("p", "mine.py", "start")
    task = asyncio.get_running_loop().create_task(bench.files.follow_files())
    await asyncio.sleep(0.3)  # until the watch is in place; a change before it would not be told
    yield bench
    task.cancel()
    await asyncio.wait([task])
    bench.files.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_file_that_changes_is_loaded(following: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD + "\n# better\n")
    await until(lambda: following.running == (2, "mine"))
    (tmp_path / "mine.py").write_text("def create(:\n")
    await until(lambda: following.files.pool("p").last_error)
    assert following.running[0] == 2
    (tmp_path / "new.py").write_text(GOOD + "\n# best\n")
    (tmp_path / "new.py").rename(tmp_path / "mine.py")
    await until(lambda: following.running[0] == 3)
    assert following.files.pool("p").last_error is None


async def test_a_folder_that_is_not_there_is_tried_again(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "mine.py").write_text(GOOD)
    await bench.files.load("p", "mounted/mine.py", "start")
    folder.rename(tmp_path / "away")
    task = asyncio.get_running_loop().create_task(bench.files.follow_files())
    await until(lambda: "policy files cannot be followed; trying on" in caplog.text)
    (tmp_path / "away" / "mine.py").write_text(GOOD + "\n# better\n")
    (tmp_path / "away").rename(folder)
    await until(lambda: bench.running == (2, "mine"))
    task.cancel()
    await asyncio.wait([task])


async def test_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces ``..data``, a link beside the files, which are links through it."""
    for version, text in (("..v1", GOOD), ("..v2", GOOD + "\n# two\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "mine.py").write_text(text)
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "mine.py").symlink_to("..data/mine.py")
    bench = Bench(tmp_path)
    await bench.files.load("p", "mine.py", "start")
    task = asyncio.get_running_loop().create_task(bench.files.follow_files())
    await asyncio.sleep(0.3)
    (tmp_path / "..new").symlink_to("..v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    await until(lambda: bench.running == (2, "mine"))
    assert "# two" in bench.dispatcher.pools["p"].policy_set.sources[0].source
    task.cancel()
    await asyncio.wait([task])
    bench.files.close()


def test_specs_have_one_text(tmp_path: Path) -> None:
    text = "a.py@routing,scheduling:a=1,b=0.5,c=true,d='x'+joint/head_room"
    specs = parse(text, tmp_path)
    again = "+".join(spec_text(spec) for spec in specs)
    assert again == f"{tmp_path}/{text}"
    assert parse(again, Path("/")) == specs


SPITEFUL = """
def create(rng):
    return Spiteful()


class Spiteful:
    def admit(self, request, pool):
        return True

    def key(self, request):
        return 1 / 0 if request.tenant == "spited" else 0.0
"""


@pytest.mark.parametrize("how", ["load", "reload"])
async def test_a_set_that_is_retired_while_it_is_put_in_place_was_not_loaded(
    how: str, bench: Bench, tmp_path: Path
) -> None:
    await bench.files.load("p", "least_loaded", "start")
    bench.submit(WorkerJoined(1.0, "w", "p"))
    bench.submit(WorkerHealthChanged(1.0, "w", healthy=False))
    for number in range(8):
        bench.submit(RequestArrived(1.0, f"r{number}", "m", "spited"))
    (tmp_path / "spiteful.py").write_text(SPITEFUL)
    with pytest.raises(PolicyRefusedError, match=r"generation 2 was retired: .*ZeroDivisionError"):
        if how == "load":
            await bench.files.load("p", "spiteful.py")
        else:
            await bench.files.reload({"p": "spiteful.py"}, lambda: None)
    assert bench.running == (1, "routing/least_loaded")


async def test_a_set_that_is_retired_while_it_is_put_back_was_not_put_back(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "spiteful.py").write_text(SPITEFUL)
    for name in ("least_loaded", "spiteful.py", "random"):
        await bench.files.load("p", name)
    bench.submit(WorkerJoined(1.0, "w", "p"))
    bench.submit(WorkerHealthChanged(1.0, "w", healthy=False))
    for number in range(8):
        bench.submit(RequestArrived(1.0, f"r{number}", "m", "spited"))
    with pytest.raises(PolicyRefusedError, match=r"generation 4 was retired: .*ZeroDivisionError"):
        await bench.files.rollback("p")
    assert bench.running[1] != "spiteful"
