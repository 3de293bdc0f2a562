"""What a supervised gateway gets from its supervisor, and what it tells it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prometheus_client.core import Metric

from gateway.policy_state import LastEnd
from gateway.telemetry.metrics import counter

READY = b"R"
BEAT = b"."


@dataclass(frozen=True, slots=True)
class Inherited:
    """Descriptors stay open when the process ends: its supervisor has them too."""

    data_fds: Sequence[int]
    """The listening sockets of the data port, one for each address of its host."""
    admin_fds: Sequence[int]
    beat_fd: int
    """Where the process says that it is ready, and then that it lives."""
    state_dir: str
    last_end: LastEnd | None = None
    """None: there was no process before."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """So far, by reason."""

    def text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> Inherited:
        """Processes that this one starts, such as mock workers, do not get the descriptors in their turn: a port stays
        open while anyone holds it, and its connections wait for an answer that never comes."""
        inherited = Inherited(**json.loads(text))
        for descriptor in (*inherited.data_fds, *inherited.admin_fds, inherited.beat_fd):
            os.set_inheritable(descriptor, False)
        return inherited

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    def tell(self, what: bytes) -> None:
        """A supervisor that does not read, or is gone, is no trouble of this process."""
        with suppress(OSError):
            os.write(self.beat_fd, what)

    async def beat(self, seconds: float) -> None:
        """Runs for ever."""
        os.set_blocking(self.beat_fd, False)
        while True:
            self.tell(BEAT)
            await asyncio.sleep(seconds)

    def collect(self) -> Iterable[Metric]:
        """For the metrics page."""
        rows = (([reason], number) for reason, number in self.restarts.items())
        yield counter("ranvier_restarts", "Of this process by its supervisor.", ["reason"], rows)


def listening(descriptors: Iterable[int]) -> list[socket.socket]:
    """The inherited sockets."""
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]
