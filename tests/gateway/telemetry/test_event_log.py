"""The event log as files: what a gateway wrote is replayed to the same decisions, and damage is found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import orjson
import pytest

from gateway.config import EventLogSection
from gateway.core.checkpoints import CHECKPOINT_EVERY
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import ClientLeft, Event, PolicySetReplaced, RequestArrived, RequestEnded, Ticked, WorkerJoined
from gateway.core.policy_set import PolicySet
from gateway.core.pool import PoolConfig
from gateway.errors import StartError
from gateway.telemetry.event_log import EventLog, ReplayError, default_folder, open_event_log, replay_log
from policies.loader import load_policies, parse_specs

SEED = 7


def policy_set(generation: int, text: str) -> PolicySet:
    return PolicySet.of(load_policies(parse_specs(text), SEED, generation), generation)


def run(folder: Path, num_requests: int = 50, every: int = CHECKPOINT_EVERY, **settings: int) -> Path:
    """Logs a small busy day of two workers under three policy sets, two of them random; the last file."""
    pools = [PoolConfig("p")]
    dispatcher = Dispatcher(pools)
    log = EventLog(dispatcher, pools, SEED, folder, EventLogSection(**settings), checkpoint_every=every)
    rng = Random(1)

    def tell(event: Event) -> None:
        log.event_handled(event, {}, dispatcher.handle(event))

    tell(PolicySetReplaced(0.0, "p", policy_set(1, "random")))
    for name in "ab":
        tell(WorkerJoined(0.0, name, "p"))
    for number in range(num_requests):
        now = number / 10
        if number == num_requests // 2:
            tell(PolicySetReplaced(now, "p", policy_set(2, "power_of_two+shortest_prompt_first")))
        tell(RequestArrived(now, f"r{number}", "m", num_prompt_bytes=rng.randrange(4000)))
        if number % 3:
            tell(RequestEnded(now, f"r{number - 1}", "completed", rng.randrange(100)))
        elif number:
            tell(ClientLeft(now, f"r{number - 1}"))
        tell(Ticked(now))
    log.close()
    return log.file.path


def test_the_same_decisions_bit_for_bit(tmp_path: Path) -> None:
    result = replay_log(run(tmp_path))
    assert (result.files, result.events, result.dispatches) == (1, 153, 50)


def test_a_run_in_several_files_is_replayed_from_any_of_them(tmp_path: Path) -> None:
    pools = [PoolConfig("p")]
    dispatcher = Dispatcher(pools)
    log = EventLog(dispatcher, pools, SEED, tmp_path, EventLogSection(max_file_bytes=65_536))
    for number in range(3_000):
        event = Ticked(float(number))
        log.event_handled(event, {}, dispatcher.handle(event))
        if number % 1_000 == 999:
            log.file._flush()
    log.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert replay_log(files[-1]).events == 3_000
    files[0].unlink()
    with pytest.raises(ReplayError, match="first file is gone"):
        replay_log(files[-1])


def test_a_decision_that_was_changed_is_found(tmp_path: Path) -> None:
    path = run(tmp_path)
    lines = path.read_bytes().splitlines()
    index = next(i for i, line in enumerate(lines) if b'"Dispatch"' in line and b'"r30"' in line)
    record = orjson.loads(lines[index])
    record[3][0][2] = "b" if record[3][0][2] == "a" else "a"
    lines[index] = orjson.dumps(record)
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ReplayError, match=r"NOT identical: event .* RequestArrived"):
        replay_log(path)


def test_a_missing_line_is_found(tmp_path: Path) -> None:
    path = run(tmp_path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(lines[:20] + lines[21:]) + b"\n")
    with pytest.raises(ReplayError, match="cannot be replayed beyond event 19: record 20 is missing"):
        replay_log(path)


def test_after_a_gap_it_goes_on_from_the_next_checkpoint(tmp_path: Path) -> None:
    """The policies' generators are where they were: two of the three sets draw at random."""
    path = run(tmp_path, 400, every=100)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(lines[:150] + lines[160:]) + b"\n")
    result = replay_log(path, resume=True)
    (gap,) = result.gaps
    assert (gap.first, gap.resumed_after) == (149, 200)
    assert result.events == 1_203 - (200 - 148)
    with pytest.raises(ReplayError, match="record 149 is missing"):
        replay_log(path)


def test_without_its_first_file_it_begins_where_it_can(tmp_path: Path) -> None:
    pools = [PoolConfig("p")]
    dispatcher = Dispatcher(pools)
    log = EventLog(dispatcher, pools, SEED, tmp_path, EventLogSection(max_file_bytes=65_536), checkpoint_every=700)
    for number in range(3_000):
        event = Ticked(float(number))
        log.event_handled(event, {}, dispatcher.handle(event))
        if number % 1_000 == 999:
            log.file._flush()
    log.close()
    first, *_, last = sorted(tmp_path.iterdir())
    first.unlink()
    result = replay_log(last, resume=True)
    assert result.gaps[0].resumed_after in (1_400, 2_100)
    assert result.events == 3_000 - result.gaps[0].resumed_after


def test_a_gap_with_no_checkpoint_behind_it_stays_and_says_why(tmp_path: Path) -> None:
    path = run(tmp_path, every=120)
    lines = path.read_bytes().splitlines()
    index = next(i for i, line in enumerate(lines) if b'"checkpoint"' in line)
    record = orjson.loads(lines[index])
    record[3] = "a policy's own state cannot be told: Mine holds a function"
    lines[index] = orjson.dumps(record)
    path.write_bytes(b"\n".join(lines[:20] + lines[21:]) + b"\n")
    (gap,) = replay_log(path, resume=True).gaps
    assert gap.resumed_after is None
    assert gap.why.endswith("not from checkpoint 120: a policy's own state cannot be told: Mine holds a function")


def test_a_marked_gap_ends_the_replay(tmp_path: Path) -> None:
    path = run(tmp_path, max_buffered_records=40)
    with pytest.raises(ReplayError, match=r"beyond event 40: .* were not kept"):
        replay_log(path)


@pytest.mark.parametrize(
    "unlogged", [RequestArrived(1.0, "\ud800", "m"), RequestArrived(1.0, "r", "m", priority=2**64)]
)
def test_an_event_that_is_no_json_is_a_gap_and_the_log_goes_on(tmp_path: Path, unlogged: Event) -> None:
    pools = [PoolConfig("p")]
    dispatcher = Dispatcher(pools)
    log = EventLog(dispatcher, pools, SEED, tmp_path, EventLogSection())
    for event in (Ticked(0.0), WorkerJoined(0.5, "a", "p"), unlogged, Ticked(2.0), Ticked(3.0)):
        log.event_handled(event, {}, dispatcher.handle(event))
    log.close()
    lines = [orjson.loads(line) for line in log.file.path.read_bytes().splitlines()[1:]]
    assert [line[:2] for line in lines] == [
        [1, "Ticked"],
        [2, "WorkerJoined"],
        [3, "gap"],
        [4, "Ticked"],
        [5, "Ticked"],
    ]
    with pytest.raises(ReplayError, match="beyond event 2: 1 records up to number 3 were not kept"):
        replay_log(log.file.path)


def test_a_line_that_was_cut_by_a_kill_is_no_fault(tmp_path: Path) -> None:
    path = run(tmp_path)
    assert not replay_log(path).cut
    path.write_bytes(path.read_bytes()[:-10])
    result = replay_log(path)
    assert (result.events, result.cut) == (152, True)


@pytest.mark.parametrize("text", [b"", b"{}\n", b"not json\n", b"[1]\n"])
def test_what_is_no_log_is_told(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(text)
    with pytest.raises(ReplayError, match=r"x\.jsonl: is no event log"):
        replay_log(tmp_path / "x.jsonl")
    with pytest.raises(ReplayError, match="cannot be read"):
        replay_log(tmp_path / "nowhere")


def opened(folder: Path | None, name: str = "8000", **settings: bool) -> EventLog | None:
    pools = [PoolConfig("p")]
    return open_event_log(Dispatcher(pools), pools, SEED, EventLogSection(**settings), folder, name)


def test_without_a_directory_it_is_where_state_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    log = opened(None)
    assert log is not None
    log.close()
    assert log.file.path.parent == tmp_path / "xdg" / "ranvier" / "events" / "8000"
    assert log.file.path.stat().st_mode & 0o777 == 0o600
    assert log.file.path.parent.stat().st_mode & 0o777 == 0o700

    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/one:{tmp_path}/two")
    assert default_folder("80") == tmp_path / "one" / "ranvier" / "events" / "80"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")  # not valid, says its specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder("80") == tmp_path / ".local" / "state" / "ranvier" / "events" / "80"


def test_a_gateway_serves_without_a_place_for_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert opened(None) is None
    assert "there is no event log" in caplog.text
    with pytest.raises(StartError, match="name a writable directory"):
        opened(tmp_path / "file" / "below")


def test_two_gateways_on_any_free_port_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    logs = [log for log in (opened(None, "0"), opened(None, "0")) if log is not None]
    assert [log.file.path.parent.name for log in logs] == ["0-1", "0-2"]
    for log in logs:
        log.close()
    again = opened(None, "0")
    assert again is not None
    again.close()
    assert again.file.path.parent.name == "0-1"


def test_two_runs_in_one_folder_are_replayed_each_by_itself(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    assert one is not None and two is not None
    for number in range(4):
        for log in (one, two) if number < 2 else (one,):
            event = Ticked(float(number))
            log.event_handled(event, {}, log._dispatcher.handle(event))
    one.close()
    two.close()
    assert [replay_log(log.file.path).events for log in (one, two)] == [4, 2]


def test_off_is_off(tmp_path: Path) -> None:
    assert opened(tmp_path, enabled=False) is None
    assert list(tmp_path.iterdir()) == []


def test_what_an_event_read_is_its_own_though_it_is_written_later(tmp_path: Path) -> None:
    """The dispatcher fills the dictionary of counts anew for each event; an empty one it uses again."""
    pools = [PoolConfig("p")]
    dispatcher = Dispatcher(pools)
    log = EventLog(dispatcher, pools, SEED, tmp_path, EventLogSection())
    reads: dict[str, int] = {}
    for number in range(3):
        event = WorkerJoined(float(number), f"w{number}", "p")
        commands = dispatcher.handle(event)
        if number == 1:
            reads["w0"] = 7
        log.event_handled(event, reads, commands)
        reads = {} if reads else reads
    log.close()
    records = [orjson.loads(line) for line in log.file.path.read_bytes().splitlines()[1:]]
    assert [record[4:] for record in records] == [[], [{"w0": 7}, []], []]
