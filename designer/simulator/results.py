"""What one simulation gives: a column for every fact of a request, and metrics with their definitions.

Times are seconds since the start of the simulation, as the gateway sees them: a first token counts when it has reached
the gateway. NaN stands for "never".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from designer.simulator.breakdown import Part
from designer.simulator.draws import Floats, Ints
from designer.simulator.objectives import objective_value
from designer.simulator.scenario import Objective
from gateway.mockworker.engine import PS_PER_SECOND

RequestOutcome = Literal[
    "completed",
    "shed",
    "queue_full",
    "queue_timeout",
    "deadline",
    "no_worker",
    "unknown_model",
    "attempts",
    "refused",
    "left",
    "failed",
    "abandoned",
]
"""How a request ended. ``completed``: answered in full; ``refused``: larger than any worker's KV, as a vLLM server
answers 400; ``left``: the client gave up; ``failed``: its worker broke down after the first token had reached the
client; ``abandoned``: never sent, for an earlier turn of its session got no full answer; the others are the reasons of
the gateway's own rejections."""
OUTCOMES: tuple[RequestOutcome, ...] = get_args(RequestOutcome)
COMPLETED = OUTCOMES.index("completed")


@dataclass(frozen=True, slots=True, eq=False)
class SimulationResult:
    """One row for each request, in order of arrival. Every request has ended."""

    seed: int
    objective: Objective
    workers: tuple[str, ...]
    tenants: tuple[str, ...]
    arrival: Floats
    dispatched: Floats
    """The last dispatch: earlier ones failed."""
    first_token: Floats
    finished: Floats
    """The end, of whatever kind."""
    worker: Ints
    """Index into ``workers`` of the last dispatch; -1: never dispatched."""
    tenant: Ints
    outcome: NDArray[np.int8]
    """Index into ``OUTCOMES``."""
    prompt: Ints
    """True tokens."""
    output: Ints
    """True tokens it would make."""
    made: Ints
    """Tokens made: ``output`` for a completed request, unless its worker's limit on context cut it short."""
    cached: Ints
    """Prompt tokens the worker found in its prefix cache when it first ran the request."""
    preemptions: Ints
    num_dispatches: Ints
    ttft_slo: Floats
    """NaN: no promise."""
    counters: Mapping[str, int | float | str] = field(default_factory=dict)
    """Events handled, policy calls replaced by the guard, and the like."""
    parts_ps: Mapping[Part, Ints] = field(default_factory=dict)
    """Picoseconds by where they went (``designer.simulator.breakdown``); together ``finished - arrival``."""
    recomputed: Ints | None = None
    """Tokens computed again after preemptions."""

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def completed(self) -> NDArray[np.bool_]:
        return np.equal(self.outcome, COMPLETED)

    @property
    def held(self) -> Floats:
        """Seconds in the gateway before the last dispatch; NaN for a request that was never dispatched."""
        return self.dispatched - self.arrival

    @property
    def response_times(self) -> Floats:
        """Arrival to last token, or the penalty."""
        return self._penalized(self.finished - self.arrival)

    @property
    def ttfts(self) -> Floats:
        """Arrival to first token, or the penalty."""
        return self._penalized(self.first_token - self.arrival)

    @property
    def tpots(self) -> Floats:
        """Seconds per token after the first, of completed requests of two tokens and more."""
        several = self.completed & (self.made > 1)
        return (self.finished - self.first_token)[several] / (self.made[several] - 1)

    @property
    def mean_itl(self) -> float | None:
        """Mean seconds between consecutive tokens, over all gaps of completed requests; None if there is no gap."""
        several = self.completed & (self.made > 1)
        num_gaps = int((self.made[several] - 1).sum())
        return float((self.finished - self.first_token)[several].sum()) / num_gaps if num_gaps else None

    @property
    def tenant_speeds(self) -> dict[str, float]:
        """By tenant that sent anything: tokens of its full answers per second of its response times."""
        answered = np.where(self.completed, self.made, 0)
        tokens = np.bincount(self.tenant, weights=answered, minlength=len(self.tenants))
        seconds = np.bincount(self.tenant, weights=self.response_times, minlength=len(self.tenants))
        return {name: float(t / s) for name, t, s in zip(self.tenants, tokens, seconds, strict=True) if s > 0}

    @property
    def fairness(self) -> float:
        """Jain's index of ``tenant_speeds``: 1 when all are alike, 1/n when one of n gets everything."""
        speeds = np.array(list(self.tenant_speeds.values()))
        squares = float((speeds**2).sum())
        return float(speeds.sum()) ** 2 / (len(speeds) * squares) if squares else 1.0

    @property
    def mean_parts(self) -> dict[Part, float]:
        """Mean seconds of a request by where they went; without penalties, so they add up to the mean time it took."""
        return {part: float(times.mean()) / PS_PER_SECOND for part, times in self.parts_ps.items()}

    def _penalized(self, times: Floats) -> Floats:
        floor = np.maximum(self.objective.penalty_seconds, self.finished - self.arrival)
        return np.where(self.completed, times, floor)

    @property
    def mean_response_time(self) -> float:
        return float(self.response_times.mean())

    @property
    def objective_value(self) -> float:
        """The scenario's metric; lower is better."""
        return objective_value(self)

    @property
    def worker_seconds(self) -> float:
        """Of all workers, from the moment each was asked for until it was gone."""
        return float(self.counters.get("worker_seconds", len(self.workers) * float(self.finished.max())))

    @property
    def goodput(self) -> float:
        """Requests a second that met their promises, from the first arrival to the last end."""
        return float(self.met_slo.sum()) / float(self.finished.max() - self.arrival.min())

    @property
    def met_slo(self) -> NDArray[np.bool_]:
        """Completed within its TTFT promise (its own, else the objective's) and the objective's TPOT."""
        default = self.objective.ttft_slo_seconds
        promised = np.where(np.isnan(self.ttft_slo), np.inf if default is None else default, self.ttft_slo)
        met = self.completed & (self.ttfts <= promised)
        if self.objective.tpot_slo_seconds is not None:
            decode = np.nan_to_num(self.finished - self.first_token, nan=np.inf)
            met &= decode <= self.objective.tpot_slo_seconds * np.maximum(1, self.made - 1)
        return met

    def summary(self) -> dict[str, Any]:
        """The metrics of the run as JSON scalars; times in seconds, rates per second, shares 0 to 1."""
        span = float(self.finished.max() - self.arrival.min())
        counts = np.bincount(self.outcome, minlength=len(OUTCOMES))
        dispatched = self.num_dispatches > 0
        return {
            "seed": self.seed,
            "num_requests": len(self),
            "num_completed": int(counts[COMPLETED]),
            "num_unserved": {
                name: int(n) for name, n in zip(OUTCOMES, counts, strict=True) if n and name != "completed"
            },
            "makespan": span,
            "objective": self.objective_value,
            **_spread("response_time", self.response_times),
            **_spread("ttft", self.ttfts),
            **_spread("tpot", self.tpots),
            "mean_itl": self.mean_itl,
            "mean_held": _mean(self.held[dispatched]),
            "held_share": _mean((self.held > 1e-9)[dispatched]),
            "preempted_share": _mean((self.preemptions > 0)[dispatched]),
            "num_preemptions": int(self.preemptions.sum()),
            "num_recomputed_tokens": 0 if self.recomputed is None else int(self.recomputed.sum()),
            "cached_share": float(self.cached.sum() / max(1, self.prompt.sum())),
            "goodput": self.goodput,
            "met_slo_share": float(self.met_slo.mean()),
            "output_tokens_per_second": float(self.made[self.completed].sum()) / span,
            "fairness": self.fairness,
            "worker_seconds": self.worker_seconds,
            "mean_parts": self.mean_parts,
            **self.counters,
        }

    def columns(self) -> dict[str, list[Any]]:
        """Every per-request column as plain lists; None stands for "never"."""
        return {
            "arrival": _plain(self.arrival),
            "dispatched": _plain(self.dispatched),
            "first_token": _plain(self.first_token),
            "finished": _plain(self.finished),
            "worker": [self.workers[index] if index >= 0 else None for index in self.worker.tolist()],
            "tenant": [self.tenants[index] for index in self.tenant.tolist()],
            "outcome": [OUTCOMES[index] for index in self.outcome.tolist()],
            "prompt": self.prompt.tolist(),
            "output": self.output.tolist(),
            "made": self.made.tolist(),
            "cached": self.cached.tolist(),
            "preemptions": self.preemptions.tolist(),
            "num_dispatches": self.num_dispatches.tolist(),
            **{f"{part}_seconds": (times / PS_PER_SECOND).tolist() for part, times in self.parts_ps.items()},
        }

    def to_json(self, *, columns: bool = False) -> bytes:
        """The summary, with the columns if asked for; the same run gives the same bytes."""
        content: dict[str, Any] = {"summary": self.summary()}
        if columns:
            content["columns"] = self.columns()
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 if not columns else None)


def _spread(name: str, values: Floats) -> dict[str, float | None]:
    if not len(values):
        return dict.fromkeys(f"{kind}_{name}" for kind in ("mean", "p50", "p90", "p99", "max"))
    p50, p90, p99, most = np.percentile(values, [50, 90, 99, 100]).tolist()
    spread = {"mean": float(values.mean()), "p50": p50, "p90": p90, "p99": p99, "max": most}
    return {f"{kind}_{name}": value for kind, value in spread.items()}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _plain(times: Floats) -> list[float | None]:
    return [None if time != time else time for time in times.tolist()]
