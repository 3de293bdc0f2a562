"""A run's winner beside its comparator through the real gateway: does what the simulator said come true?

Pairs of real-time runs on the same requests, fresh workers and a fresh gateway for each, in alternating order so that
what changes on the machine over time falls on both alike. The unit is a pair; one pair is one seed, and no seed is used
twice. What is compared with the simulator is the ratio of the two policies, seed by seed, which delays that both have
leave alone. Every pair is in the ledger, from before it begins; what all of them say together is ``replay_evidence``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from designer.cage import Cage, layers_of
from designer.fidelity import Comparison, Fidelity, compare
from designer.going_on import going_on
from designer.ledger import Ledger, seed_of
from designer.replay_evidence import HALF, STARTED, judged, num_started, pair_result, pairs_in
from designer.replay_host import hosting, reachable
from designer.sealed_state import SealedState
from designer.simulator.scenario import Scenario
from designer.subject import Subject
from designer.swap_in import fills_batch

DRAIN_SECONDS = 3600.0
"""Of processor time that a gateway may take beyond twice the length of what is replayed."""


class ReplayError(Exception):
    """A replay that cannot be made or judged; one line."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is replayed where; pairs of other conditions are judged apart."""

    speed: float = 1.0
    """Scenario seconds in a second."""
    first_seconds: float | None = None
    """Only what arrives before, seconds of the scenario; None: everything."""
    workers: tuple[str, ...] = ()
    """Addresses of real workers; none: mock workers are started."""

    def to_json(self) -> dict[str, Any]:
        return {
            "workers": f"workers at {', '.join(self.workers)}" if self.workers else "mock workers",
            "speed": self.speed,
            "first_seconds": self.first_seconds,
        }


def replay(
    ledger: Ledger,
    *,
    pairs: int,
    conditions: Conditions = Conditions(),
    force: bool = False,
    on_policy: Callable[[Comparison], None] = lambda done: None,
    run_pair: Callable[..., Fidelity] = compare,
) -> Mapping[str, Any]:
    """Make the pairs, each in the ledger from before it begins, and judge all there ever were; what that says.

    Args:
        force: also when the sealed verdict is not "better".
        run_pair: makes the two runs of a pair; takes what ``compare`` takes.

    Raises:
        ReplayError: there is no winner, it is not better, or it has batch rules.
        LedgerError: another process goes on with the run, or replays it.
        FidelityError, ProcessError, SandboxError, ScenarioError: a run failed.
    """
    _require_better(ledger, force)
    bench = _Bench.of(ledger, conditions)
    with going_on(ledger.path.parent):
        for _ in range(pairs):
            bench.make_pair(run_pair, on_policy)
    outcome = judged(list(pairs_in(ledger)))
    if outcome is None:
        raise ReplayError("0 pairs say nothing; make at least 1")
    return outcome


def _require_better(ledger: Ledger, force: bool) -> None:
    """Code that was not shown to be better has no business in a gateway, a caged one included."""
    state = SealedState.of(ledger)
    if state.digest is None:
        raise ReplayError(f"{ledger.path}: the run has no winner to replay")
    if not state.is_better and not force:
        raise ReplayError(f"{ledger.path}: {state.said}; see --force")


@dataclass(frozen=True, slots=True)
class _Bench:
    """Both policies with all that a pair needs."""

    ledger: Ledger
    scenario: Scenario
    conditions: Conditions
    folder: Path
    subjects: Mapping[str, Subject]
    """By the spec that a gateway loads: the winner, then the comparator."""
    comparator_label: str
    workers: tuple[str, ...]
    """The addresses of real workers, as a caged gateway can reach them."""

    @classmethod
    def of(cls, ledger: Ledger, conditions: Conditions) -> _Bench:
        frozen, folder = ledger.frozen(), ledger.path.parent / "replay"
        if frozen is None:
            raise ReplayError(f"{ledger.path}: the run has no winner to replay")
        winner, comparator = (ledger.subject(digest) for digest in (frozen.digest, frozen.comparator))
        if fills_batch(winner):
            raise ReplayError(
                f"{ledger.path}: the winner has batch rules, and neither mock workers nor a gateway run these: what "
                "would be replayed is another policy"
            )
        specs = {_as_spec(subject, folder): subject for subject in (winner, comparator)}
        scenario = Scenario.model_validate_json(ledger.run().scenario)
        try:
            workers = reachable(conditions.workers)
        except ValueError as error:
            raise ReplayError(str(error)) from None
        return cls(ledger, scenario, conditions, folder, specs, comparator.label, workers)

    def make_pair(self, run_pair: Callable[..., Fidelity], on_policy: Callable[[Comparison], None]) -> None:
        """One more; a stop on the way leaves a pair that was begun and not ended, and what was measured of it."""
        number = num_started(self.ledger) + 1
        seed = seed_of(self.ledger.run().secret, "validation", number, "replay")
        place = self.folder / f"pair-{number}"
        shutil.rmtree(place, ignore_errors=True)
        specs = list(self.subjects)
        self.ledger.add_event(STARTED, {"number": number, "conditions": self.conditions.to_json()})

        def on_half(done: Comparison) -> None:
            role = "winner" if done.policy == specs[0] else "comparator"
            self.ledger.add_event(HALF, {"number": number, "role": role, "figures": _policy_row(done)})
            on_policy(done)

        fidelity = run_pair(
            self.scenario,
            specs if number % 2 else specs[::-1],
            seed,
            place,
            speed=self.conditions.speed,
            first_seconds=self.conditions.first_seconds,
            workers=self.workers,
            on_policy=on_half,
            hosting=hosting(self.subjects, self._cpu_seconds()),
        )
        by_policy = {comparison.policy: comparison for comparison in fidelity.comparisons}
        made = [by_policy[spec] for spec in specs]
        content = {"number": number, "seed": seed, "layers": _layers(place), **self._as_row(made[0], made[1])}
        self.ledger.add_result(pair_result(number), content)

    def _cpu_seconds(self) -> int:
        length = self.conditions.first_seconds or getattr(self.scenario.workload, "duration_seconds", None) or 86_400.0
        return int(DRAIN_SECONDS + 2.0 * length / self.conditions.speed)

    def _as_row(self, winner: Comparison, comparator: Comparison) -> dict[str, Any]:
        return {
            "state": state_of(winner, comparator),
            "conditions": self.conditions.to_json(),
            "comparator_label": self.comparator_label,
            "winner": _policy_row(winner),
            "comparator": _policy_row(comparator),
        }


def state_of(winner: Comparison, comparator: Comparison) -> str:
    """``lost``: twice the winner lost requests that the simulator served, and the comparator did not; ``invalid``: of
    anything else that keeps the two from being compared."""
    if winner.is_valid and comparator.is_valid:
        return "valid"
    lost = "lost" in winner.verdict and "lost" in winner.first_verdict
    return "lost" if lost and comparator.is_valid else "invalid"


def _policy_row(done: Comparison) -> dict[str, Any]:
    """What JSON can hold of it: times that are not there are null."""
    sides = {name: asdict(getattr(done, name)) for name in ("real", "simulated")}
    for side in sides.values():
        for times in (side["ttft"], side["response_time"]):
            times.update({key: None if math.isnan(value) else value for key, value in times.items()})
    facts = {"verdict": done.verdict, "num_runs": done.num_runs, "first_verdict": done.first_verdict}
    return {**sides, **facts, "lag_p99": None if math.isnan(done.lag_p99) else done.lag_p99}


def _layers(place: Path) -> list[str]:
    """Of the cages of a pair."""
    return list(
        dict.fromkeys(layer for home in sorted(place.glob("*.gateway")) for layer in layers_of(Cage(str(home))))
    )


def _as_spec(subject: Subject, folder: Path) -> str:
    """What a gateway loads: the name of a built-in, or a file with the very bytes that were evaluated."""
    if subject.trusted:
        return subject.label
    if len(subject.parts) != 1 or any(sign in str(folder.resolve()) for sign in ":@+"):
        raise ReplayError(f"{folder}: a policy's path cannot hold ':', '@' or '+'; move the run")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f"policy-{subject.digest[:12]}.py"
    path.write_bytes(subject.parts[0].source.encode())
    return str(path)
