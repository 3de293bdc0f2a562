"""The output tokens that have reached the gateway in a simulation, counted when the dispatcher asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from designer.simulator.world import World


class TokensSeen(Mapping[str, int]):
    """By worker, to within the one-way delay ``answer_ps``: never fewer than it has seen."""

    def __init__(self, world: World, answer_ps: int) -> None:
        self._world = world
        self._answer_ps = answer_ps

    def __getitem__(self, worker_id: str) -> int:
        world = self._world
        worker = world.worker_by_id[worker_id]
        if worker.unstreamed:
            world.advance(world.now, worker)
            world.look_again(worker)
        now = world.now - self._answer_ps
        return worker.num_tokens_seen(now if now > worker.clock else worker.clock)

    def get(self, worker_id: str, default: Any = None) -> Any:
        """Without the detour of ``Mapping``: asked of every worker at every decision."""
        return self.__getitem__(worker_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._world.worker_by_id)

    def __len__(self) -> int:
        return len(self._world.worker_by_id)
