"""The event log: every input of a dispatcher as plain JSON data, and the replay that makes the same decisions of it.

A log is a header and records, numbered without holes by the dispatcher's count of events:

- ``[number, type, fields, commands]``, or with the output tokens read and the watch's verdicts behind them;
- ``[number, "checkpoint", digest, state]``, what is true after that event: the digest tells a divergence to within a
  few, and of the state a dispatcher can be made that goes on from there. ``state`` is a text where there is none, and
  says why; it is left out while the records since the last one would not outweigh it;
- ``[number, "gap", count]``: so many records up to ``number`` were lost; what follows, up to the next checkpoint with a
  state, cannot be replayed.

Nothing here does I/O; text, files and compression are the runner's. Prompts are in no event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, get_args

from gateway.core.checkpoints import CHECKPOINT_EVERY, STATE_SHARE, Checkpoints
from gateway.core.commands import Command, PolicySetRetired
from gateway.core.digest import state_digest
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import (
    Event,
    MetricsScraped,
    PolicySetReplaced,
    PoolsReconfigured,
    RequestArrived,
    WorkerJoined,
    WorkerLeft,
    WorkerMetrics,
)
from gateway.core.guard import FailureReason, PolicyInterrupted
from gateway.core.pool import PoolConfig
from gateway.core.pool_codec import SetLoader, decode_pool, decode_set, encode_pool, encode_set
from gateway.core.snapshot import RestoreError, restore

FORMAT = 1
Record = list[Any]
_EVENTS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Event)}
_FIELDS: Mapping[type, Callable[[Any], tuple[Any, ...]]] = {
    kind: attrgetter(*(field.name for field in fields(kind))) for kind in (*get_args(Event), *get_args(Command))
}
_METRICS = attrgetter(*(field.name for field in fields(WorkerMetrics)))


class LogFormatError(Exception):
    """A header or record is not of this format."""


class LogGapError(Exception):
    """Records are missing: what follows cannot be replayed."""


class DivergenceError(Exception):
    """The replay came to something else than what was logged."""


# --- writing ---


def encode_header(pools: Sequence[PoolConfig], seed: int = 0) -> dict[str, Any]:
    """What a dispatcher was made of. ``seed``: the one its policies' generators were made from."""
    return {"format": FORMAT, "seed": seed, "pools": [encode_pool(pool) for pool in pools]}


def encode(
    number: int,
    event: Event,
    commands: Sequence[Command],
    counts_read: Mapping[str, int],
    verdicts: Sequence[tuple[int, FailureReason]],
) -> Record:
    """One event with what it led to. The numbers and texts are the event's own, not copies."""
    name, values = _KINDS[type(event)]
    record: Record = [number, name, values(event), [_encode_command(c) for c in commands] if commands else []]
    if counts_read or verdicts:
        record += (dict(counts_read), list(verdicts))
    return record


class Recorder:
    """Makes the records of a dispatcher, right after each ``handle``.

    Args:
        checkpoint_every, state_share: as of ``Checkpoints``.
    """

    def __init__(
        self, dispatcher: Dispatcher, checkpoint_every: int = CHECKPOINT_EVERY, state_share: int = STATE_SHARE
    ) -> None:
        self._dispatcher = dispatcher
        self._checkpoints = Checkpoints(dispatcher, checkpoint_every, state_share)

    def records(self, event: Event, commands: Sequence[Command]) -> list[Record]:
        """One, or two with a checkpoint; none for an event the dispatcher refused."""
        dispatcher = self._dispatcher
        number = self._checkpoints.next_number()
        if not number:
            return []
        record = encode(number, event, commands, dispatcher.counts_read, dispatcher.verdicts)
        checkpoint = self._checkpoints.due()
        return [record] if checkpoint is None else [record, checkpoint]


def encode_gap(last: int, count: int) -> Record:
    """``count`` records up to number ``last`` could not be kept."""
    return [last, "gap", count]


def _encode_command(command: Command) -> Sequence[Any]:
    name, values = _KINDS[type(command)]
    return (name, *values(command))


def _encode_joined(event: WorkerJoined) -> Sequence[Any]:
    *values, metrics, replica = _FIELDS[WorkerJoined](event)
    return (*values, metrics and _METRICS(metrics), replica)


def _encode_scraped(event: MetricsScraped) -> Sequence[Any]:
    return (event.time, event.worker_id, _METRICS(event.values), event.taken_at)


def _encode_replaced(event: PolicySetReplaced) -> Sequence[Any]:
    return (event.time, event.pool, encode_set(event.policy_set))


def _encode_reconfigured(event: PoolsReconfigured) -> Sequence[Any]:
    return (event.time, [encode_pool(pool) for pool in event.pools])


def _getter(kind: type) -> Callable[[Any], Sequence[Any]]:
    get = _FIELDS[kind]
    return get if len(fields(kind)) > 1 else lambda item: (get(item),)


_KINDS: Mapping[type, tuple[str, Callable[[Any], Sequence[Any]]]] = {
    **{kind: (kind.__name__, _getter(kind)) for kind in _FIELDS},
    WorkerJoined: ("WorkerJoined", _encode_joined),
    MetricsScraped: ("MetricsScraped", _encode_scraped),
    PolicySetReplaced: ("PolicySetReplaced", _encode_replaced),
    PoolsReconfigured: ("PoolsReconfigured", _encode_reconfigured),
}
"""By type: its name in a record, and how its fields are told."""


# --- reading ---


@dataclass(slots=True, frozen=True)
class Entry:
    """A record of an event."""

    number: int
    event: Event
    commands: list[list[Any]]
    """As they were logged."""
    counts_read: Mapping[str, int]
    verdicts: Sequence[tuple[int, FailureReason]]


def decode(record: Sequence[Any], load: SetLoader) -> Entry:
    """The entry of an event's record.

    Raises:
        LogFormatError: it is none.
    """
    try:
        number, kind, values, commands = record[:4]
        counts_read, verdicts = record[4:6] if len(record) > 4 else ({}, ())
        event = _decode_event(kind, values, load)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise LogFormatError(f"record {str(record)[:100]} is no event of format {FORMAT}: {error}") from None
    return Entry(number, event, [list(command) for command in commands], counts_read, [tuple(v) for v in verdicts])


def _decode_event(kind: str, values: Sequence[Any], load: SetLoader) -> Event:
    if kind == "PolicySetReplaced":
        time, pool, policy_set = values
        return PolicySetReplaced(time, pool, decode_set(pool, policy_set, load))
    if kind == "PoolsReconfigured":
        return PoolsReconfigured(values[0], tuple(decode_pool(pool, load) for pool in values[1]))
    event: Event = _EVENTS[kind](*values)
    if isinstance(event, RequestArrived):
        event.prefix_keys = tuple((key, tokens) for key, tokens in event.prefix_keys)
    elif isinstance(event, MetricsScraped):
        event.values = WorkerMetrics(*values[2])
    elif isinstance(event, WorkerJoined):
        event.models = tuple(event.models)
        event.metrics = None if event.metrics is None else WorkerMetrics(*values[5])
    return event


def decode_header(header: Mapping[str, Any], load: SetLoader) -> list[PoolConfig]:
    """The pools' configurations.

    Raises:
        LogFormatError: another format, or none.
    """
    if header.get("format") != FORMAT:
        raise LogFormatError(f"the log's format is {header.get('format')!r}, not {FORMAT}")
    try:
        return [decode_pool(pool, load) for pool in header["pools"]]
    except (ValueError, TypeError, KeyError) as error:
        raise LogFormatError(f"the log's header is incomplete: {error!r}") from None


# --- replay ---


class _LoggedWatch:
    """Finds what the log says was found."""

    def __init__(self) -> None:
        self.verdicts: dict[int, FailureReason] = {}
        self.number = 0

    def enter(self) -> None:
        self.number += 1
        if self.verdicts.get(self.number) == "interrupted":
            raise PolicyInterrupted("as logged")

    def exit(self) -> bool:
        return self.verdicts.get(self.number) == "overrun"


@dataclass(slots=True, frozen=True)
class Gap:
    """What a replay could not follow."""

    first: int
    """The first record that is missing."""
    resumed_after: int | None
    """The checkpoint from which it went on; None: there was none up to the end."""
    why: str
    """Of the record that is missing, and of checkpoints that were of no use."""


def replay(
    header: Mapping[str, Any],
    records: Iterable[Sequence[Any]],
    load: SetLoader,
    on_gap: Callable[[Gap], None] | None = None,
) -> Iterator[tuple[Event, list[Command]]]:
    """Every event with the commands a fresh dispatcher answers, each found equal to what was logged.

    Args:
        on_gap: told of each gap, after which the replay goes on from the next checkpoint with a state. None: the first
            gap ends it.

    Raises:
        LogFormatError: what is read is no log of this format.
        LogGapError: a record is missing; what came before was replayed.
        DivergenceError: commands or the state at a checkpoint differ from the log's.
    """
    replayed = _Replay(header, load)
    gap: Gap | None = None
    for record in records:
        _require_record(record)
        if gap is not None and on_gap is not None:
            gap = replayed.resumed(record, gap)
            if gap.resumed_after is not None:
                on_gap(gap)
                gap = None
            continue
        try:
            heard = replayed.hear(record)
        except LogGapError as error:
            if on_gap is None:
                raise
            gap = replayed.resumed(record, Gap(replayed.dispatcher.num_events + 1, None, str(error)))
            if gap.resumed_after is not None:
                on_gap(gap)
                gap = None
            continue
        if heard is not None:
            yield heard
    if gap is not None and on_gap is not None:
        on_gap(gap)


class _Replay:
    """A dispatcher that hears a log."""

    def __init__(self, header: Mapping[str, Any], load: SetLoader) -> None:
        self._load = load
        self._counts: dict[str, int] = {}
        self._watch = _LoggedWatch()
        self._checked = 0
        self.dispatcher = Dispatcher(decode_header(header, load), output_tokens=self._counts, watch=self._watch)

    def hear(self, record: Sequence[Any]) -> tuple[Event, list[Command]] | None:
        """The event of the record with its commands; None for a checkpoint that agrees."""
        dispatcher = self.dispatcher
        if record[1] == "checkpoint":
            _compare_state(dispatcher, record, self._checked)
            self._checked = record[0]
            return None
        _require_next(dispatcher.num_events + 1, record)
        entry = decode(record, self._load)
        if isinstance(entry.event, WorkerLeft):
            self._counts.pop(entry.event.worker_id, None)
        self._counts.update(entry.counts_read)
        self._watch.verdicts = dict(entry.verdicts)
        commands = dispatcher.handle(entry.event)
        _compare_commands(entry, commands)
        return entry.event, commands

    def resumed(self, record: Sequence[Any], gap: Gap) -> Gap:
        """The gap, closed if the record is a checkpoint from which a dispatcher can be made."""
        if record[1] != "checkpoint" or len(record) < 4:
            return gap
        number, _, digest, state = record
        try:
            if not isinstance(state, dict):
                raise RestoreError(str(state))
            self.dispatcher = restore(state, digest, self._load, self._counts, self._watch)
        except RestoreError as error:
            return replace(gap, why=f"{gap.why}; not from checkpoint {number}: {error}")
        self._watch.number = self.dispatcher.num_policy_calls
        self._checked = number
        return replace(gap, resumed_after=number)


def _require_record(record: object) -> None:
    if not isinstance(record, list | tuple) or len(record) < 3:
        raise LogFormatError(f"{str(record)[:100]} is no record of format {FORMAT}")


def _require_next(expected: int, record: Sequence[Any]) -> None:
    if record[1] == "gap":
        raise LogGapError(f"{record[2]} records up to number {record[0]} were not kept; replay ends before them")
    if record[0] != expected:
        raise LogGapError(f"record {expected} is missing: the next one is number {record[0]}")


def _compare_commands(entry: Entry, commands: Sequence[Command]) -> None:
    made = [list(_encode_command(command)) for command in commands]
    if [_comparable(command) for command in made] != [_comparable(command) for command in entry.commands]:
        raise DivergenceError(
            f"event {entry.number}, {type(entry.event).__name__} at {entry.event.time}: "
            f"the log has {entry.commands}, the replay made {made}"
        )


def _comparable(command: list[Any]) -> list[Any]:
    """Without the words of a retirement: an error's text may hold an address."""
    return command[:-1] if command[0] == PolicySetRetired.__name__ else command


def _compare_state(dispatcher: Dispatcher, record: Sequence[Any], checked: int) -> None:
    number, _, digest = record[:3]
    if number != dispatcher.num_events:
        raise LogGapError(f"checkpoint {number} follows event {dispatcher.num_events}: records are missing")
    if state_digest(dispatcher) != digest:
        raise DivergenceError(
            f"the state after event {number} differs from the log's, with the same commands; "
            f"the last checkpoint that agreed was {checked}"
        )
