"""``designer audit``: plants cheats and says what caught each of them, with the static rules and without.

A candidate goes the way that it would go in a run, layer by layer, and then a little further; the first layer that
objects has caught it. Without the static rules, which a cleverer author might get round, the layers behind them must
do. A cheat slips if no layer objects and it comes out better than the same policy without the cheat.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from designer.audit_pins import as_pinned
from designer.cheats import BASE, CHEATS, Cheat, knows_seeds_by_heart
from designer.endurance import Endurance, Ordeal
from designer.forgeries import FORGERIES
from designer.layers import UNNAMED, Catch, layer_of
from designer.ledger import seed_of
from designer.promote import default_parameters
from designer.sandbox import Evaluation, Sandbox, Task
from designer.sealed import tier_of
from designer.simulator.scenario import Scenario, parse_scenario
from designer.simulator.world import World
from designer.statistics import PairedEffect, paired_effect
from designer.subject import Subject, subject_of_source
from policies.conformance import check_source
from policies.loader import identity

SLIPPED = "nothing"
NO_GAIN = "fresh seeds"
_MARGIN = 0.02
_NUM_FRESH = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One cheat, as submitted and with the static rules left out."""

    name: str
    wants: str
    caught: Catch
    without_static: Catch
    compiled: bool = False
    """The simulator that it was planted beside runs as machine code."""

    @property
    def slipped(self) -> bool:
        return not {SLIPPED, UNNAMED}.isdisjoint((self.caught.layer, self.without_static.layer))

    @property
    def moved(self) -> bool:
        """Another layer caught it than docs/audit.md says; told where the kernel has all of them."""
        return not as_pinned(self.name, self.caught.layer, self.without_static.layer, self.compiled)


def audit_scenario() -> Scenario:
    """Two small workers, short of KV under a burst: where order and placement matter, and a run takes no time."""
    table: dict[str, Any] = {
        "name": "audit",
        "workload": {
            "kind": "synthetic",
            "num_requests": 100,
            "arrivals": {"process": "lognormal", "rate": 30.0, "sigma": 1.0},
            "prompt_tokens": {"median": 60.0, "sigma": 1.5, "max": 1000},
            "output_tokens": {"median": 40.0, "sigma": 1.0, "max": 400},
            "bytes": {"per_token": 4.0},
            "max_tokens": {"values": [512, 1024, 2048], "unset_fraction": 0.0},
        },
        "workers": [{"profile": "a10-llama3-8b", "count": 2, "engine": {"num_gpu_blocks": 120}}],
        "queue": {"max_seconds": 60.0},
        "objective": {"metric": "mean_response_time", "penalty_seconds": 100.0},
    }
    return parse_scenario(table, Path("audit.toml"))


class Audit:
    """Plants cheats in a sandbox of its own. Use it as a context manager.

    Args:
        deadline_seconds: wall clock of one simulation.
        cpu_seconds: its processor time; what loops is stopped then, however busy the machine is.
        key: draws the seeds, as a run's secret does.
    """

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        jobs: int = 2,
        deadline_seconds: float = 10.0,
        cpu_seconds: float = 2.0,
        key: str = "audit",
    ) -> None:
        self.scenario = scenario or audit_scenario()
        limits: dict[str, Any] = {"deadline_seconds": deadline_seconds, "cpu_seconds": cpu_seconds}
        self.sandbox = Sandbox(self.scenario, jobs=jobs, memory_bytes=512 << 20, **limits)
        self._train = [seed_of(key, "train", n) for n in range(_NUM_FRESH)]
        self._fresh = [seed_of(key, "validation", n) for n in range(_NUM_FRESH)]
        self._base: dict[int, float] = {}

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()

    def cheats(self) -> tuple[Cheat, ...]:
        """The planted ones, and one that is made for the seeds of this audit."""
        fingerprints = [random.Random(f"{seed}/0/0").random() for seed in self._train]
        return (*CHEATS, *FORGERIES, knows_seeds_by_heart(fingerprints))

    def endurance(self, hostile: Sequence[Cheat], on_ordeal: Callable[[Ordeal], None] = lambda _: None) -> list[Ordeal]:
        """What each hostile candidate came to, one after the other."""
        through = Endurance(self.sandbox, subject_of_source(BASE, "base"), self._train[0])
        ordeals = []
        for cheat in hostile:
            ordeals.append(through.undergo(cheat))
            on_ordeal(ordeals[-1])
        return ordeals

    def run(self, cheats: Sequence[Cheat], on_finding: Callable[[Finding], None] = lambda _: None) -> list[Finding]:
        """One after the other, so that their times are their own."""
        self._score_base()
        compiled = not inspect.isfunction(World.run)
        found = []
        for cheat in cheats:
            finding = Finding(cheat.name, cheat.wants, self._try(cheat, True), self._try(cheat, False), compiled)
            found.append(finding)
            on_finding(finding)
        return found

    def _score_base(self) -> None:
        if self._base:
            return
        base = subject_of_source(BASE, "base")
        seeds = [*self._train, *self._fresh]
        for done in self.sandbox.run([Task(base, seed) for seed in seeds]):
            self._base[done.task.seed] = _score(done)

    def _try(self, cheat: Cheat, static: bool) -> Catch:
        started = time.monotonic()
        for layer, detail in self._objections(cheat.subject, static):
            return Catch(layer, detail, time.monotonic() - started)
        return Catch(SLIPPED, "no layer objected, and it is better for it", time.monotonic() - started)

    def _objections(self, subject: Subject, static: bool) -> Iterator[tuple[str, str]]:
        """In the order of a candidate's way."""
        seed = self._train[0]
        if static and (violations := check_source(subject.parts[0].source)):
            yield "static rules", str(violations[0])
        first = self.sandbox.evaluate(subject, seed)
        if first.status == "failed":
            yield layer_of(first.reason), first.reason
            return
        if violated := self.sandbox.check(subject, static=False):
            yield "contract trial", violated[0]
        (apart,) = self.sandbox.run([Task(subject, seed, "lockstep", first.decisions, first.score)])
        if apart.status == "failed":
            yield "two processes", apart.reason
            return
        if apart.policy_hashes != (_identity(subject.parts[0].source),):
            yield "promotion", "says that it is another policy than these bytes"
        if seen := self.sandbox.foresight(subject, seed):
            yield "altered future", seen
        yield from self._no_gain(subject)

    def _no_gain(self, subject: Subject) -> Iterator[tuple[str, str]]:
        """Fresh seeds, two processes: better than the same policy without the cheat, or not."""
        train, fresh = self._effect(subject, self._train), self._effect(subject, self._fresh)
        if fresh is None:
            yield "two processes", "failed on a fresh seed"
        elif not (fresh.ratio < 1.0 - _MARGIN and fresh.p_value < 0.05):
            before = "" if train is None else f"{train.ratio:.3f} on the seeds of the search, "
            yield NO_GAIN, f"gains nothing: {before}{fresh.ratio:.3f} on fresh ones, to the same without the cheat"

    def _effect(self, subject: Subject, seeds: Sequence[int]) -> PairedEffect | None:
        done = self.sandbox.run([Task(subject, seed, tier_of(subject)) for seed in seeds])
        if any(evaluation.score is None for evaluation in done):
            return None
        return paired_effect([_score(evaluation) for evaluation in done], [self._base[seed] for seed in seeds])


def _score(evaluation: Evaluation) -> float:
    if evaluation.score is None:
        raise RuntimeError(f"the honest policy failed: {evaluation.reason}")
    return evaluation.score


def _identity(source: str) -> str:
    """What ``designer promote`` holds a sandbox's report against."""
    return identity(source.encode(), default_parameters(source))
