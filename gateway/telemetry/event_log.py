"""The event log on disk, written while the gateway runs and replayed by ``gateway replay-log``.

A run of the gateway writes ``events-START-000001.jsonl`` and its continuations; every file begins with a header.
The format of the lines is ``gateway.core.event_log``'s. Prompts are never in it; policies' sources are.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson
from prometheus_client.core import CounterMetricFamily, Metric

from gateway.config import EventLogSection
from gateway.core.checkpoints import CHECKPOINT_EVERY, Checkpoints
from gateway.core.commands import Command, Dispatch
from gateway.core.dispatcher import Dispatcher
from gateway.core.event_log import (
    DivergenceError,
    Gap,
    LogFormatError,
    LogGapError,
    encode,
    encode_gap,
    encode_header,
    replay,
)
from gateway.core.events import Event, Ticked
from gateway.core.guard import FailureReason
from gateway.core.policy_set import PolicySet, PolicySource
from gateway.core.pool import PoolConfig
from gateway.core.pool_codec import SetLoader
from gateway.errors import GatewayError, StartError
from gateway.telemetry.log_file import LogFile, own_folder
from policies.loader import PolicyLoadError, PolicySpec, load_source

log = logging.getLogger(__name__)

Verdict = tuple[int, FailureReason]

_FAMILY = "events"
_MAX_PENDING = 64
_NO_READS: Mapping[str, int] = {}
_NO_VERDICTS: Sequence[Verdict] = ()


class ReplayError(GatewayError):
    """The log cannot be replayed, or the replay decided otherwise."""


class EventLog:
    """An ``EventSink``. Made before the dispatcher's first event."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        pools: Sequence[PoolConfig],
        seed: int,
        folder: Path,
        settings: EventLogSection,
        lock: int | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
    ) -> None:
        self._lock = lock
        """A descriptor that keeps ``folder`` this process's; closed with the log."""
        self._dispatcher = dispatcher
        self._checkpoints = Checkpoints(dispatcher, checkpoint_every)
        self._pending: list[tuple[int, Event, Sequence[Command], Mapping[str, int], Sequence[Verdict]]] = []
        """Not written out yet: many at a time take half the time that each by itself takes."""
        self._header = encode_header(pools, seed)
        started = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._run = f"{started}.{secrets.token_hex(3)}"  # two gateways may begin at the same microsecond
        self._last_number = 0
        self.file = LogFile(
            folder,
            f"{_FAMILY}-{self._run}",
            family=_FAMILY,
            head=self._head,
            gap=lambda lost: orjson.dumps(encode_gap(self._last_number, lost)),
            max_file_bytes=settings.max_file_bytes,
            max_files=settings.max_files,
            max_lines=settings.max_buffered_records,
        )

    def event_handled(self, event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        """None of the three is changed by anybody after the event, but an empty ``reads``."""
        dispatcher = self._dispatcher
        number = self._checkpoints.next_number()
        if not number:
            return
        pending = self._pending
        pending.append((number, event, commands, reads or _NO_READS, dispatcher.verdicts or _NO_VERDICTS))
        if len(pending) >= _MAX_PENDING or type(event) is Ticked:
            self._hand_over()
        if (checkpoint := self._checkpoints.due()) is not None:
            self._hand_over()
            self.file.write(_line(checkpoint))

    def _hand_over(self) -> None:
        pending, self._pending = self._pending, []
        write = self.file.write
        for number, event, commands, reads, verdicts in pending:
            self._last_number = number
            try:
                line = orjson.dumps(encode(number, event, commands, reads, verdicts))
            except TypeError as error:  # orjson's own: a number beyond 64 bits, half a surrogate pair
                log.error("event cannot be logged", extra={"number": number, "error": str(error)})
                line = orjson.dumps(encode_gap(number, 1))
            write(line)

    def close(self) -> None:
        self._hand_over()
        self.file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def collect(self) -> Iterable[Metric]:
        """For the metrics page."""
        yield CounterMetricFamily("ranvier_event_log_records", "Records kept.", self.file.num_lines)
        yield CounterMetricFamily("ranvier_event_log_lost_records", "The disk was too slow.", self.file.num_lost)

    def _head(self, part: int) -> bytes:
        return orjson.dumps({**self._header, "run": self._run, "part": part})


def _line(checkpoint: Sequence[Any]) -> bytes:
    try:
        return orjson.dumps(checkpoint)
    except TypeError as error:
        return orjson.dumps([*checkpoint[:3], f"it cannot be written as JSON: {error}"])


def open_event_log(
    dispatcher: Dispatcher,
    pools: Sequence[PoolConfig],
    seed: int,
    settings: EventLogSection,
    folder: Path | None,
    name: str,
) -> EventLog | None:
    """The log that is asked for; None when it is off, or ``folder`` is None and ``default_folder`` cannot be written: a
    gateway serves all the same.

    Raises:
        StartError: ``folder`` cannot be written.
    """
    if not settings.enabled:
        return None
    try:
        own = (folder or default_folder(name), None) if folder or name != "0" else _own_folder()
        return EventLog(dispatcher, pools, seed, own[0], settings, own[1])
    except StartError as error:
        if folder is not None:
            raise
        log.warning("there is no event log; --event-log DIR names a place for one", extra={"error": str(error)})
        return None


def default_folder(name: str) -> Path:
    """Where programs keep what should survive a restart: as systemd says, as the XDG specification says.

    Raises:
        StartError: neither says where, and the user has no home.
    """
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.environ.get("XDG_STATE_HOME", "")
    try:
        root = Path(state) if Path(state).is_absolute() else Path("~/.local/state").expanduser()
    except RuntimeError:
        raise StartError(
            "there is no home directory for the event log; set STATE_DIRECTORY or --event-log DIR"
        ) from None
    return root / "ranvier" / "events" / name


def _own_folder() -> tuple[Path, int]:
    """For a gateway on any free port, which has no number of its own yet: a folder that no other has meanwhile.

    Raises:
        StartError: there is no place for it.
    """
    parent = default_folder("0").parent
    try:
        return own_folder(parent, "0")
    except OSError as error:
        raise StartError(f"{parent}: cannot be written: {error.strerror}; name a writable directory") from None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A log that was replayed to its end with the same decisions."""

    files: int
    events: int
    commands: int
    dispatches: int
    cut: bool
    """The last line has no end: the gateway was killed while it wrote, and what followed is in no log."""
    gaps: tuple[Gap, ...] = ()
    """What is missing, or could not be followed for what is missing before it."""


def replay_log(path: Path, *, resume: bool = False) -> Replayed:
    """Replays the run that ``path``, one of its files, belongs to, from its first event.

    Args:
        resume: go on after a gap, from the next checkpoint that has a state.

    Raises:
        ReplayError: one line: no such log, a gap, or where a decision differs.
    """
    header = _header(path)
    parts = _parts(path, str(header["run"]), all_needed=not resume)
    records = _Records(parts)
    gaps: list[Gap] = []
    num_events = num_commands = num_dispatches = 0
    try:
        for _, commands in replay(header, records, loader_of(int(header["seed"])), gaps.append if resume else None):
            num_events += 1
            num_commands += len(commands)
            num_dispatches += sum(type(command) is Dispatch for command in commands)
    except (LogFormatError, LogGapError, PolicyLoadError) as error:
        raise ReplayError(f"{path}: cannot be replayed beyond event {num_events}: {error}") from None
    except DivergenceError as error:
        raise ReplayError(f"{path}: NOT identical: {error}") from None
    return Replayed(len(parts), num_events, num_commands, num_dispatches, records.cut, tuple(gaps))


def loader_of(seed: int) -> SetLoader:
    """Makes logged policy sets again, from the sources in the log, with the generators they had."""

    def load(pool: str, generation: int, sources: tuple[PolicySource, ...]) -> PolicySet:
        loaded = [
            load_source(
                source.source.encode(),
                PolicySpec(source.name, source.slots, source.params, source.policy_hash),
                Random(f"{seed}/{generation}/{index}"),
                path=f"{pool}/{generation}/{source.name}.py",
                name=source.name,
            )
            for index, source in enumerate(sources)
        ]
        return PolicySet.of(loaded, generation)

    return load


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            header = orjson.loads(file.readline())
        if not isinstance(header, dict) or not {"run", "part", "seed"} <= header.keys():
            raise ReplayError(f"{path}: is no event log: its first line is not a header")
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}; name a file of an event log") from None
    except orjson.JSONDecodeError:
        raise ReplayError(f"{path}: is no event log: its first line is not a header") from None
    return header


def _parts(path: Path, run: str, *, all_needed: bool) -> list[Path]:
    """All files of the run, in order. ReplayError when the first is gone and is needed."""
    found = sorted(path.parent.glob(f"{_FAMILY}-{run}-*.jsonl")) or [path]
    if all_needed and _header(found[0])["part"] != 1:
        raise ReplayError(
            f"{path}: the run's first file is gone: a larger event_log.max_files keeps it; --resume begins where it can"
        )
    return found


class _Records:
    """Those of all files of a run, one after the other."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts
        self.cut = False

    def __iter__(self) -> Iterator[list[Any]]:
        for path in self._parts:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        self.cut = True
                        return
                    if number > 1:  # the first is the header
                        yield _record(line, path, number)


def _record(line: bytes, path: Path, number: int) -> list[Any]:
    try:
        record: list[Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LogFormatError(f"{path.name} line {number} is not JSON: {error}") from None
    return record
