"""Checkpoints of an event log: by the digest a replay is checked, from the state it can go on after a gap."""

from __future__ import annotations

from typing import Any

from gateway.core.digest import state_digest
from gateway.core.dispatcher import Dispatcher
from gateway.core.policy_memory import NotPlainError
from gateway.core.snapshot import memory_weight, take, weight

CHECKPOINT_EVERY = 10_000
"""Events from one checkpoint to the next. Its digest costs about 1 us for each request held or in flight; a state,
which is rarer the larger it is, 8 us, 0.2 us for each chunk of the prefix index, and 0.5 us for each value that a
policy remembers."""
STATE_SHARE = 4
"""A state is written when so many times its own length was written since the last: at most a fifth of a log."""


class Checkpoints:
    """When one is due, and what is in it.

    Args:
        every: events from one to the next.
        state_share: 0: each has a state, whatever its size.
    """

    def __init__(self, dispatcher: Dispatcher, every: int = CHECKPOINT_EVERY, state_share: int = STATE_SHARE) -> None:
        self._dispatcher, self._every, self._share = dispatcher, every, state_share
        self._last_state = self._memory = 0
        self._recorded = dispatcher.num_events

    def next_number(self) -> int:
        """Of the event that was just handled; 0 when the dispatcher refused it."""
        number = self._dispatcher.num_events
        if number == self._recorded:
            return 0
        self._recorded = number
        return number

    def due(self) -> list[Any] | None:
        """The checkpoint after the latest event, if there is to be one."""
        dispatcher = self._dispatcher
        number = dispatcher.num_events
        if number % self._every:
            return None
        record: list[Any] = [number, "checkpoint", state_digest(dispatcher)]
        if self._share * (weight(dispatcher) + self._memory) <= number - self._last_state:
            self._last_state = number
            state = encode_state(dispatcher)
            self._memory = memory_weight(state) if isinstance(state, dict) else 0
            record.append(state)
        return record


def encode_state(dispatcher: Dispatcher) -> dict[str, Any] | str:
    """What a dispatcher can be made of again, or why it cannot."""
    try:
        return take(dispatcher)
    except NotPlainError as error:
        return f"a policy's own state cannot be told: {error}"
