"""What runs on a node of a cluster: one sandbox, as on the machine of the run. It needs nothing of Ray.

The node believes nothing that it can check: the bytes of a policy are those of its digest, the scenario's files those
of the run, and the code is the run's own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from designer.build import build
from designer.sandbox import Sandbox, SandboxError, Task
from designer.simulator.scenario import Scenario, parse_scenario
from designer.simulator.trace import TraceError
from designer.subject import subject_from_json
from gateway.mockworker.profile import ProfileError

_NO_SCENARIO: Mapping[str, Any] = {
    "name": "nothing",
    "workload": {
        "kind": "synthetic",
        "num_requests": 1,
        "arrivals": {"rate": 1.0},
        "prompt_tokens": {"median": 1.0, "max": 1},
        "output_tokens": {"median": 1.0, "max": 1},
    },
    "workers": [{"profile": "a10-llama3-8b"}],
}


class NodeError(Exception):
    """The node cannot do what it is asked for; one line that says why."""


class Node:
    """One process of a cluster. Not for two batches at a time."""

    def __init__(self) -> None:
        self._owner: Sandbox | None = None
        self._deadline = 0.0
        self._sandboxes: dict[str, Sandbox] = {}
        """By the scenario's digest; they share the owner's processes."""

    def describe(self) -> dict[str, Any]:
        """Who and where it is, and what confines a candidate here, found out by confining a child."""
        with Sandbox(parse_scenario(dict(_NO_SCENARIO), Path("nothing.toml")), jobs=1) as sandbox:
            try:
                layers = list(sandbox.layers())
            except SandboxError as error:
                raise NodeError(f"{socket.gethostname()}: {error}") from None
        return {"host": socket.gethostname(), "pid": os.getpid(), "build": dict(build()), "layers": layers}

    def run(
        self, scenario: str, digest: str, deadline_seconds: float, tasks: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """What each task gave, in their order, as the arguments of ``Evaluation``.

        Raises:
            NodeError: a policy's or the scenario's bytes are not those that were meant.
        """
        sandbox = self._sandbox_for(scenario, digest, deadline_seconds)
        done = sandbox.run([_task(task) for task in tasks])
        names = ("status", "score", "summary", "decisions", "policy_hashes", "reason", "wall_seconds")
        return [{name: getattr(evaluation, name) for name in names} for evaluation in done]

    def close(self) -> None:
        self._sandboxes.clear()
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def _sandbox_for(self, scenario: str, digest: str, deadline_seconds: float) -> Sandbox:
        if self._owner is None or self._deadline != deadline_seconds:
            self.close()
            self._owner = Sandbox(_scenario(scenario, digest), jobs=1, deadline_seconds=deadline_seconds)
            self._deadline = deadline_seconds
            self._sandboxes[digest] = self._owner
        if digest not in self._sandboxes:
            self._sandboxes[digest] = self._owner.elsewhere(_scenario(scenario, digest))
        return self._sandboxes[digest]


def task_to_json(task: Task) -> dict[str, Any]:
    """For ``Node.run``."""
    names = ("seed", "tier", "expected_decisions", "expected_score")
    told = {name: getattr(task, name) for name in names}
    return {**told, "subject": task.subject.to_json(), "digest": task.subject.digest}


def _task(data: Mapping[str, Any]) -> Task:
    rest = dict(data)
    subject, digest = subject_from_json(rest.pop("subject")), rest.pop("digest")
    if subject.digest != digest:
        raise NodeError(f"{socket.gethostname()}: the bytes of {subject.label} are not those of {digest[:12]}")
    return Task(subject, **rest)


def _scenario(text: str, digest: str) -> Scenario:
    try:
        scenario = Scenario.model_validate_json(text)
        here = scenario.digest
    except (OSError, ValueError, ProfileError, TraceError) as error:
        said = " ".join(str(error).split())[:300]
        raise NodeError(
            f"{socket.gethostname()}: the scenario cannot be read there: {said}; its files must be at the same paths"
        ) from None
    if here != digest:
        raise NodeError(f"{socket.gethostname()}: a file that the scenario names is another one there; copy it")
    return scenario
