"""Several listeners where the runtime has room for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.core.commands import Command
from gateway.core.events import Event
from gateway.runtime import EventSink


def sink_of(sinks: Sequence[EventSink]) -> EventSink:
    """Gives each event to all of ``sinks``, in their order."""

    def hear(event: Event, reads: Mapping[str, int], commands: Sequence[Command]) -> None:
        for sink in sinks:
            sink(event, reads, commands)

    return hear
