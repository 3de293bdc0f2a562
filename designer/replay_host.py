"""Where a replay runs code that nobody has promoted: in the sandbox for the simulator, in a cage for the gateway."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from designer.cage import Cage, caged, ports_of
from designer.fidelity import HERE, Hosting, Side, Times
from designer.processes import Launch
from designer.sandbox import Sandbox, SandboxError, Task
from designer.simulator.scenario import Scenario
from designer.simulator.workload import RequestColumns
from designer.subject import Subject

_SIMULATION = Sandbox.simulation_role
"""Under which a sandbox keeps its simulating parents, whatever they run."""


class WinnerSandbox(Sandbox):
    """Runs the work of ``designer.work_replay``: the winner in a process of its own."""

    simulation_role = "designer.work_replay"

    def replayed(self, subject: Subject, seed: int) -> Side:
        """What the simulator says of the scenario's trace.

        Raises:
            SandboxError: nothing; with the reason.
        """
        told = self._result(self._in_lockstep(self._slow(self._job("replayed", Task(subject, seed)))), subject)
        response_times = list(map(float, told["response_times"]))
        ttfts = Times.of(list(map(float, told["ttfts"])))
        return Side(int(told["num_requests"]), len(response_times), ttfts, Times.of(response_times))

    def swapped(self, winner: Subject, comparator: Subject, seed: int, way: str, moment: float) -> Mapping[str, Any]:
        """See ``designer.work_replay.swapped``.

        Raises:
            SandboxError: nothing; with the reason.
        """
        job = {**self._job("swapped", Task(winner, seed)), "comparator": comparator.to_json()}
        job = self._slow({**job, "way": way, "moment": moment})
        if way == "comparator":
            return self._result(self._ask(_SIMULATION, job), comparator)
        return self._result(self._in_lockstep(job), winner)

    def _slow(self, job: dict[str, Any]) -> dict[str, Any]:
        """As lockstep everywhere has."""
        limits = {**job["limits"], "cpu_seconds": job["limits"]["cpu_seconds"] * 2.0}
        return {**job, "deadline_seconds": job["deadline_seconds"] * 2.0, "limits": limits}

    def _result(self, answer: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
        if not isinstance(answer.get("result"), dict):
            raise SandboxError(f"{subject.label}: the simulation gave nothing: {answer.get('error', 'no answer')}")
        return dict(answer["result"])


def hosting(subjects: Mapping[str, Subject], cpu_seconds: int) -> Hosting:
    """Of policies by the spec under which a gateway loads each; those that come with the package run as they are.

    Args:
        cpu_seconds: of one gateway.
    """

    def simulated(scenario: Scenario, policy: str, seed: int, columns: RequestColumns) -> Side:
        subject = subjects[policy]
        if subject.trusted:
            return HERE.simulated(scenario, policy, seed, columns)
        sandbox = WinnerSandbox(scenario, jobs=1, deadline_seconds=600.0)
        with contextlib.closing(sandbox):
            return sandbox.replayed(subject, seed)

    def launch(home: Path, files: Sequence[Path], urls: Sequence[str]) -> Launch:
        return lambda arguments, ports, out: caged(
            Cage(str(home), tuple(map(str, files)), ports, ports_of(urls), cpu_seconds=cpu_seconds),
            "gateway.cli",
            arguments,
            out,
        )

    return Hosting(simulated, launch, hears=False)


def reachable(urls: Sequence[str]) -> tuple[str, ...]:
    """Addresses of workers with numbers for names: a caged gateway can look nothing up.

    Raises:
        ValueError: a name is not known, or is needed for a certificate; one line.
    """
    return tuple(map(_with_number, urls))


def _with_number(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"--worker {url}: write http://HOST:PORT")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        number = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, ValueError) as error:
        raise ValueError(f"--worker {url}: {error}") from None
    if number == host:
        return url
    if parts.scheme == "https":
        raise ValueError(f"--worker {url}: its certificate has a name, and a caged gateway can look none up; use http")
    shown = f"[{number}]" if ":" in number else number
    return urlunsplit(parts._replace(netloc=f"{shown}:{port}"))
