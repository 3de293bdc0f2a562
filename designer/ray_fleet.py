"""Processes on the nodes of a Ray cluster. Ray is imported when it is asked for, and not before.

Every process is an actor that holds one processor. An actor that dies is not restarted by Ray but replaced here, so
that what it was doing is known to be lost.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from designer.batches import Batch
from designer.build import build
from designer.executor import ExecutorError, Place, Placement
from designer.ray_node import Node, task_to_json

_START_SECONDS = 120.0
_OBJECT_STORE_BYTES = 100 << 20
_SEPARATE = frozenset({"landlock", "seccomp"})
"""A node that has none of these lets a candidate open its files and sockets."""
_BUILD_NAMES = {"python": "Python", "numpy": "NumPy", "ranvier": "ranvier", "sources": "the sources of ranvier"}


class RayFleet:
    """See ``designer.batches.Fleet``.

    Raises:
        ExecutorError: Ray is not installed, the cluster cannot be reached, or none of its nodes can be used.
    """

    def __init__(self, placement: Placement) -> None:
        self._ray = _import_ray()
        self._allow_unconfined = placement.allow_unconfined
        _connect(self._ray, placement)
        self._actors: dict[int, Any] = {}
        self._told: dict[int, Mapping[str, Any]] = {}
        self._flying: dict[Any, int] = {}
        self._loss = ""
        """What Ray said of the last process that was lost."""
        try:
            self._start(placement.jobs or max(1, int(self._ray.cluster_resources().get("CPU", 1))))
        except BaseException:
            self._ray.shutdown()
            raise
        self._size = len(self._actors)

    @property
    def size(self) -> int:
        return self._size

    def processes(self) -> tuple[int, ...]:
        """The process ids of the actors, on their machines, in the order of their numbers."""
        return tuple(int(told["pid"]) for _, told in sorted(self._told.items()))

    def places(self) -> tuple[Place, ...]:
        counts = Counter((told["host"], tuple(told["layers"])) for told in self._told.values())
        return tuple(Place(f"node {host}", count, layers) for (host, layers), count in counts.items())

    def begin(self, number: int, batch: Batch) -> None:
        tasks = [task_to_json(task) for task in batch.tasks]
        scenario = batch.scenario.model_dump_json()
        actor = self._actors[number]
        self._flying[actor.run.remote(scenario, batch.digest, batch.deadline_seconds, tasks)] = number

    def wait(self, seconds: float) -> Mapping[int, Sequence[Mapping[str, Any]] | None]:
        ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=seconds)
        return {self._flying.pop(ref): self._answer(ref) for ref in ready}

    def replace(self, number: int) -> bool:
        self._flying = {ref: other for ref, other in self._flying.items() if other != number}
        self._end(number)
        self._actors[number] = self._new_actor()
        self._await({number: self._actors[number].describe.remote()})
        return number in self._actors

    def close(self) -> None:
        for number in list(self._actors):
            self._end(number)
        self._ray.shutdown()

    def _start(self, count: int) -> None:
        self._actors = {number: self._new_actor() for number in range(count)}
        self._await({number: actor.describe.remote() for number, actor in self._actors.items()})
        if not self._actors:
            reason = self._loss or f"none had a processor free within {_START_SECONDS:g} s"
            raise ExecutorError(f"no node of the cluster can be used: {reason}")
        actors, told = list(self._actors.values()), list(self._told.values())
        self._actors, self._told = dict(enumerate(actors)), dict(enumerate(told))

    def _new_actor(self) -> Any:
        return self._ray.remote(Node).options(num_cpus=1, max_restarts=0).remote()

    def _await(self, described: Mapping[int, Any]) -> None:
        """Until they have said who they are; those that found no place in time are given up."""
        late = self._ray.wait(list(described.values()), num_returns=len(described), timeout=_START_SECONDS)[1]
        for number, ref in described.items():
            told = None if ref in late else self._answer(ref)
            if told is None:
                self._end(number)
            else:
                self._refuse(told)
                self._told[number] = told

    def _answer(self, ref: Any) -> Any:
        """None: the process was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except (errors.RayActorError, errors.NodeDiedError, errors.ObjectLostError, errors.OutOfMemoryError) as error:
            self._loss = _one_line(error)
            return None
        except errors.RayTaskError as error:
            raise ExecutorError(_one_line(error.cause or error)) from None

    def _refuse(self, told: Mapping[str, Any]) -> None:
        """What would not simulate as this machine does, or would not confine a candidate."""
        for key, here in build().items():
            if told["build"][key] != here:
                raise ExecutorError(
                    f"node {told['host']} has {_BUILD_NAMES[key]} {told['build'][key]} and this machine {here}: "
                    "results could differ; install the same on both"
                )
        if not self._allow_unconfined and not _SEPARATE & set(told["layers"]):
            raise ExecutorError(
                f"node {told['host']} has neither landlock nor seccomp (only {', '.join(told['layers'])}), so a "
                "candidate could read its files; use other nodes, or --allow-unconfined-nodes"
            )

    def _end(self, number: int) -> None:
        actor = self._actors.pop(number, None)
        self._told.pop(number, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ExecutorError("--executor ray needs Ray: pip install 'ranvier[ray]', or --executor local") from None
    return ray


def _connect(ray: Any, placement: Placement) -> None:
    """To the cluster, or to one of this process's own, which ends with it."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        if placement.ray_address is None:
            cpus = placement.jobs or os.cpu_count() or 1
            ray.init(address="local", num_cpus=cpus, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        else:
            del quiet["include_dashboard"]
            ray.init(address=placement.ray_address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "here" if placement.ray_address is None else f"at {placement.ray_address}"
        raise ExecutorError(f"no Ray cluster {where}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
