"""Several listeners where the runtime has room for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.commands import Command
from gateway.core.events import Event
from gateway.runtime import EventSink


def sink_of(sinks: Sequence[EventSink], of_commands: EventSink | None = None) -> EventSink:
    """Gives each event to all of ``sinks``, in their order; to ``of_commands`` only those that led to commands."""

    def hear(event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        if commands and of_commands is not None:
            of_commands(event, reads, commands)
        for sink in sinks:
            sink(event, reads, commands)

    return hear
