"""Where candidates run: pools of warm parents that fork one confined, killable child for each evaluation.

Two tiers. ``evaluate`` runs policy and simulation in one child: fast, and what a search works with. ``verify`` runs
them in two children in lockstep, so that the policy sees the contract's values and nothing else, and compares the
decisions with the first tier's: what is reported, compared or sealed comes from there. Whatever a candidate does, the
answer is an ``Evaluation``; the pool is never broken by it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from designer.answer_check import BadAnswerError, one_line, scored, violations
from designer.confinement import Limits, bubblewrap
from designer.foresight import told_apart
from designer.simulator.scenario import Scenario
from designer.subject import Subject
from designer.wire import WireError, receive, send

Tier = Literal["together", "lockstep"]
_SIMULATION, _POLICY = "designer.work_simulation", "designer.work_policy"
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from designer.warm import main; main(int(sys.argv[1]), sys.argv[2])"
)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_START_SECONDS = 60.0
_GRACE_SECONDS = 10.0
"""Beyond a job's deadline, before its warm parent itself is taken for lost."""


class SandboxError(Exception):
    """The sandbox itself does not work; one line."""


@dataclass(frozen=True, slots=True)
class Task:
    """One policy on one seed: the unit of a search's budget."""

    subject: Subject
    seed: int
    tier: Tier = "together"
    expected_decisions: str = ""
    """``Evaluation.decisions`` of the other tier, which these must equal; empty: not known."""
    expected_score: float | None = None
    """Of the other tier; None: not known. Beside the simulation a candidate can forge it and leave the digest alone."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one simulation gave, or why it gave nothing."""

    task: Task
    status: Literal["scored", "failed"]
    score: float | None = None
    """The scenario's objective; lower is better."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    decisions: str = ""
    """Digest of every dispatch and end; equal decisions give equal digests."""
    policy_hashes: tuple[str, ...] = ()
    """The loader's identity of each module, parameters included."""
    reason: str = ""
    wall_seconds: float = 0.0


def _path() -> str:
    return json.dumps(sys.path)


class _WarmParent:
    """One warm process and the socket to it. Not for two threads at a time."""

    def __init__(self, role: str, wrapper: Sequence[str] = ()) -> None:
        self._role = role
        self._wrapper = wrapper
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self.owes_answer = False
        """A job was handed over and its answer has not been read: the next job's would be taken for it."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process = self._spawn(theirs.fileno())
        except OSError as error:
            ours.close()
            raise SandboxError(f"a sandbox process ({self._role}) cannot be started: {error}") from None
        finally:
            theirs.close()
        self._sock = ours
        ours.settimeout(_START_SECONDS)
        try:
            receive(ours)
        except (WireError, TimeoutError) as error:
            self.stop()
            raise SandboxError(f"a sandbox process ({self._role}) does not start: {error}") from None

    def _spawn(self, fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._wrapper, sys.executable, "-I", "-c", _BOOT, str(fd), self._role, _path()],
            pass_fds=(fd,),
            env=_ONE_THREAD,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def begin(self, job: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Hand over a job; a warm parent that has died, or still owes an answer, is replaced first."""
        if self.owes_answer or (self._process is not None and self._process.poll() is not None):
            self.stop()
        if self._sock is None:
            self.start()
        sock = self._socket()
        sock.settimeout(float(job["deadline_seconds"]) + _GRACE_SECONDS)
        self.owes_answer = True
        try:
            send(sock, job, fds)
        except WireError:
            self.stop()

    def finish(self) -> dict[str, Any]:
        """The answer to the job that was begun; a warm parent that is lost is replaced for the next one."""
        if self._sock is None:
            return {"error": "the sandbox process was lost; it is replaced"}
        try:
            answer, _ = receive(self._sock)
        except (WireError, TimeoutError) as error:
            self.stop()
            return {"error": f"the sandbox process was lost and is replaced: {error}"}
        self.owes_answer = False
        return dict(answer)

    def _socket(self) -> socket.socket:
        if self._sock is None:
            raise SandboxError("the sandbox process has not been started")
        return self._sock

    def stop(self) -> None:
        """Hanging up ends it and its child, even while another thread waits for it; a kill follows if it does not."""
        sock, self._sock = self._sock, None
        self.owes_answer = False
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Sandbox:
    """Evaluates policies on one scenario, ``jobs`` at a time. Use it as a context manager.

    Args:
        deadline_seconds: wall-clock limit of one simulation.
        cpu_seconds: its limit of processor time; None: the same. The kernel counts whole seconds.
        memory_bytes: address space a child may take beyond its parent's.
    """

    simulation_role: ClassVar[str] = _SIMULATION
    """The module that a warm parent of simulations serves."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        jobs: int = 2,
        deadline_seconds: float = 120.0,
        cpu_seconds: float | None = None,
        memory_bytes: int = 1 << 30,
    ) -> None:
        self._is_guest = False
        """Its processes are another's."""
        self._scenario = scenario.model_dump_json()
        self._deadline = deadline_seconds
        self._limits = Limits(cpu_seconds=cpu_seconds or deadline_seconds, memory_bytes=memory_bytes)
        self._jobs = jobs
        self._wrapper = bubblewrap()
        self._parents: dict[str, list[_WarmParent]] = {_SIMULATION: [], _POLICY: []}
        self._idle: dict[str, queue.SimpleQueue[_WarmParent]] = {}
        for role, parents in self._parents.items():
            module = self.simulation_role if role == _SIMULATION else role
            parents += [_WarmParent(module, self._wrapper) for _ in range(jobs)]
            self._idle[role] = queue.SimpleQueue()
            for parent in parents:
                self._idle[role].put(parent)
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="sandbox")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def elsewhere(self, scenario: Scenario) -> Sandbox:
        """The same processes at work on another scenario: it begins at once. It ends with this one."""
        other = copy.copy(self)
        other._scenario = scenario.model_dump_json()
        other._is_guest = True
        return other

    def close(self) -> None:
        """End every process of the sandbox."""
        if self._is_guest:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        for parents in self._parents.values():
            for parent in parents:
                parent.stop()

    def layers(self) -> tuple[str, ...]:
        """What confines a candidate on this machine, found out by confining a child.

        Raises:
            SandboxError: not even a child that does nothing comes back.
        """
        answer = self._ask(_POLICY, {"work": "check", "subject": {"label": "", "parts": []}})
        if "layers" not in answer:
            raise SandboxError(f"the sandbox does not work here: {answer.get('error')}")
        return (*answer["layers"], *(["bubblewrap"] if self._wrapper else []))

    def processes(self) -> tuple[int, ...]:
        """The ids of the warm parents that are running."""
        parents = (parent for role in self._parents.values() for parent in role)
        return tuple(parent.pid for parent in parents if parent.pid is not None)

    def check(self, subject: Subject, *, static: bool = True) -> list[str]:
        """Violations of the policy contract, found behind the fence; empty when it keeps it.

        Args:
            static: look at the source first, and run it only if there is nothing to object to.
        """
        answer = self._ask(_POLICY, {"work": "check", "subject": subject.to_json(), "static": static})
        return violations(answer)

    def foresight(self, subject: Subject, seed: int, tier: Tier = "lockstep") -> str:
        """Whether it decides otherwise when only what comes later is changed; empty when it does not.

        Two simulations: in the second, everything from some moment on is another. Beside the
        simulation (``together``) it is the candidate's own process that answers, so that tells of honest ones only.
        """
        if tier == "together":
            answer = self._ask(_SIMULATION, self._job("foresight", Task(subject, seed)))
            return one_line(answer["result"] if "result" in answer else answer.get("error", ""))
        job = self._job("past", Task(subject, seed))
        real = self._in_lockstep(job)
        if "result" not in real:
            return one_line(real["error"])
        altered = self._in_lockstep({**job, "real": real["result"]})
        if "result" not in altered:
            return one_line(altered["error"])
        return told_apart(real["result"], altered["result"])

    def columns(self, subject: Subject, seed: int) -> Mapping[str, Any] | str:
        """Every request of a first-tier simulation, as ``SimulationResult.columns``; a text says why there is none."""
        answer = self._ask(_SIMULATION, {**self._job("together", Task(subject, seed)), "columns": True})
        result = answer.get("result")
        found = result.get("columns") if isinstance(result, dict) else None
        return found if isinstance(found, dict) else str(answer.get("error", "it gave a result of another form"))

    def run(self, tasks: Sequence[Task], on_done: Callable[[Evaluation], None] | None = None) -> list[Evaluation]:
        """All tasks, ``jobs`` at a time; the answers in the order of the tasks."""
        futures = [self._threads.submit(self._one, task) for task in tasks]
        done: list[Evaluation] = []
        for future in futures:
            done.append(future.result())
            if on_done is not None:
                on_done(done[-1])
        return done

    def evaluate(self, subject: Subject, seed: int) -> Evaluation:
        """One simulation in the first tier."""
        return self._one(Task(subject, seed))

    def verify(self, subject: Subject, seed: int, expected_decisions: str = "") -> Evaluation:
        """One simulation in the second tier; failed if its decisions are not the expected ones, where given."""
        return self._one(Task(subject, seed, "lockstep", expected_decisions))

    def _one(self, task: Task) -> Evaluation:
        if task.tier == "together":
            return _evaluation(task, self._ask(_SIMULATION, self._job("together", task)))
        apart = _evaluation(task, self._in_lockstep(self._job("lockstep", task)))
        reason = _differs(task, apart) if apart.status == "scored" else ""
        return _failed(task, reason, apart.wall_seconds) if reason else apart

    def _in_lockstep(self, job: dict[str, Any]) -> dict[str, Any]:
        """The simulation's answer, or why there is none; the policy is in a process of its own."""
        hosting = {key: job[key] for key in ("subject", "seed", "deadline_seconds", "limits")}
        with self._parent(_POLICY) as policy, self._parent(_SIMULATION) as simulation:
            with _there_and_back() as (hosts, simulations):
                policy.begin({**hosting, "work": "host"}, hosts)
                simulation.begin(job, simulations)
            answer, hosted = simulation.finish(), policy.finish()
        if "error" in hosted and ("error" in answer or answer["result"].get("summary", {}).get("num_policy_failures")):
            return {"error": hosted["error"], "wall_seconds": answer.get("wall_seconds", 0.0)}
        return {**answer, "cpu_seconds": answer.get("cpu_seconds", 0.0) + hosted.get("cpu_seconds", 0.0)}

    def _job(self, work: str, task: Task) -> dict[str, Any]:
        scenario, subject = self._scenario, task.subject.to_json()
        return self._limited({"work": work, "subject": subject, "seed": task.seed, "scenario": scenario})

    def _limited(self, job: dict[str, Any]) -> dict[str, Any]:
        slower = 2.0 if job["work"] in ("lockstep", "past") else 1.0
        limits = asdict(self._limits)
        limits["cpu_seconds"] *= slower
        return {**job, "deadline_seconds": self._deadline * slower, "limits": limits}

    def _ask(self, role: str, job: dict[str, Any]) -> dict[str, Any]:
        with self._parent(role) as parent:
            parent.begin(self._limited(job))
            return parent.finish()

    @contextmanager
    def _parent(self, role: str) -> Iterator[_WarmParent]:
        parent = self._idle[role].get()
        try:
            yield parent
        finally:
            if parent.owes_answer:
                parent.stop()
            self._idle[role].put(parent)


@contextmanager
def _there_and_back() -> Iterator[tuple[list[int], list[int]]]:
    """What each side reads from and writes to. Pipes: a message costs the kernel half of what a socket's does."""
    calls, answers = os.pipe(), os.pipe()
    try:
        yield [calls[0], answers[1]], [answers[0], calls[1]]
    finally:
        for fd in (*calls, *answers):
            os.close(fd)


def _evaluation(task: Task, answer: Mapping[str, Any]) -> Evaluation:
    wall = float(answer.get("wall_seconds", 0.0))
    if "result" not in answer:
        return _failed(task, one_line(answer.get("error", "")), wall)
    try:
        found = scored(answer["result"])
    except BadAnswerError as error:
        return _failed(task, str(error), wall)
    return Evaluation(task, "scored", found.score, found.summary, found.decisions, found.policy_hashes, "", wall)


def _failed(task: Task, reason: str, wall: float) -> Evaluation:
    return Evaluation(task, "failed", reason=reason, wall_seconds=wall)


def _differs(task: Task, apart: Evaluation) -> str:
    """How the second tier contradicts what is expected of it; empty when it does not."""
    if task.expected_decisions and apart.decisions != task.expected_decisions:
        return "decided otherwise in a process of its own than beside the simulation, or was scored otherwise"
    if task.expected_score is not None and apart.score != task.expected_score:
        return f"scored {apart.score!r} in a process of its own and {task.expected_score!r} beside the simulation"
    return ""
