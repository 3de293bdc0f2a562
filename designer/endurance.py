"""What hostile candidates come to: what stopped each in either tier, whether the sandbox went on, and what was left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from designer.cheats import Cheat
from designer.hostile import FOLDERS, MARK
from designer.layers import Catch, layer_of
from designer.sandbox import Evaluation, Sandbox, Task
from designer.subject import Subject
from policies.conformance import check_source

HARMLESS = "nothing to stop"
"""It did no harm and was scored like any other."""
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Ordeal:
    """One hostile candidate, with the static rules left out."""

    name: str
    wants: str
    static: bool
    """A static rule objects to it as well."""
    beside: Catch
    """First tier."""
    apart: Catch
    """Second tier."""
    went_on: bool
    """An honest policy was scored as before, in both tiers, by the same sandbox."""
    left: str
    """Processes, descriptors and files that were not there before; empty: none."""

    @property
    def harmed(self) -> bool:
        return not self.went_on or bool(self.left)


class Endurance:
    """One sandbox through all of it.

    Args:
        honest: is scored before, and after each candidate.
    """

    def __init__(self, sandbox: Sandbox, honest: Subject, seed: int) -> None:
        self._sandbox = sandbox
        self._honest = honest
        self._seed = seed
        self._scores = self._honest_scores()

    def undergo(self, cheat: Cheat) -> Ordeal:
        before = _Traces.of(self._sandbox)
        static = bool(check_source(cheat.source))
        beside, apart = (self._catch(Task(cheat.subject, self._seed, tier)) for tier in ("together", "lockstep"))
        went_on = self._honest_scores() == self._scores
        return Ordeal(cheat.name, cheat.wants, static, beside, apart, went_on, before.left_since(self._sandbox))

    def _catch(self, task: Task) -> Catch:
        started = time.monotonic()
        (done,) = self._sandbox.run([task])
        layer = HARMLESS if done.status == "scored" else layer_of(done.reason)
        return Catch(layer, done.reason, time.monotonic() - started)

    def _honest_scores(self) -> list[tuple[float | None, str]]:
        done: list[Evaluation] = self._sandbox.run(
            [Task(self._honest, self._seed), Task(self._honest, self._seed, "lockstep")]
        )
        return [(evaluation.score, evaluation.reason) for evaluation in done]


@dataclass(frozen=True, slots=True)
class _Traces:
    processes: frozenset[int]
    num_descriptors: int
    files: frozenset[str]

    @classmethod
    def of(cls, sandbox: Sandbox) -> _Traces:
        warm = sandbox.processes()
        descriptors = sum(len(_names(Path(f"/proc/{pid}/fd"))) for pid in ("self", *warm))
        files = frozenset(
            f"{folder}/{name}" for folder in (*FOLDERS, ".") for name in _names(Path(folder)) if MARK in name
        )
        return cls(frozenset(_descendants(warm)), descriptors, files)

    def left_since(self, sandbox: Sandbox) -> str:
        """What is there now and was not then, once what is ending has had time to."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (text := self._left(_Traces.of(sandbox))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return text

    def _left(self, now: _Traces) -> str:
        processes, files = len(now.processes - self.processes), sorted(now.files - self.files)
        descriptors = max(0, now.num_descriptors - self.num_descriptors)
        parts = [f"{processes} processes"] * bool(processes) + [f"{descriptors} descriptors"] * bool(descriptors)
        return ", ".join([*parts, *files])


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _descendants(parents: Iterable[int]) -> Iterator[int]:
    """Of processes, zombies included; none where there is no /proc."""
    if sys.platform != "linux":
        return
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    left = list(parents)
    while left:
        found = children.get(left.pop(), [])
        left += found
        yield from found
