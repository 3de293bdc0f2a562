"""What a scaling program decides, straight from its meaning: what emitted policies are tested against."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from itertools import pairwise

from designer.proposers.scaling import ScalingProgram, SignalName, carried_names
from policies.contract import Pool

_MEASURED: Mapping[SignalName, Callable[[Pool], float]] = {
    "requests": lambda pool: pool.num_inflight_requests + pool.num_queued_requests,
    "waiting": lambda pool: sum(w.num_requests_waiting for w in pool.workers) + pool.num_queued_requests,
    "prefill": lambda pool: sum(w.num_inflight_prefill_tokens for w in pool.workers) + pool.num_queued_prompt_tokens,
    "arrivals": lambda pool: pool.arrival_rate,
    "requests_ahead": lambda pool: pool.num_arrived_requests,
    "tokens_ahead": lambda pool: pool.num_arrived_prompt_tokens,
    "kv_use": lambda pool: sum(w.kv_cache_usage for w in pool.workers),
    "queued": lambda pool: pool.num_queued_requests,
}


class Scaler:
    """The rule of a program with what it remembers."""

    def __init__(self, program: ScalingProgram) -> None:
        self._program = program
        self._counts: dict[SignalName, list[tuple[float, float]]] = {name: [] for name in program.signals}
        self._answers: list[tuple[float, int]] = []

    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        program = self._program
        carried = [program[name] for name in carried_names(program.signals)]
        demands = [self._measured(name, pool) / each for name, each in zip(program.signals, carried, strict=True)]
        joined = max(demands) if program.combine == "larger" else sum(demands)
        wanted = math.ceil(joined + program["spare_replicas"])
        self._answers.append((pool.now, wanted))
        held = [size for time, size in self._answers if time > pool.now - program["hold_seconds"]]
        return _shared_out(pool, max([*held, wanted]))

    def _measured(self, name: SignalName, pool: Pool) -> float:
        value = _MEASURED[name](pool)
        return self._ahead(name, pool.now, value) if name.endswith("_ahead") else value

    def _ahead(self, name: SignalName, now: float, count: float) -> float:
        """A rate per second, from the counts of the window: its line where the change will have its effect."""
        known = self._counts[name]
        known[:] = [entry for entry in known if now - self._program["window_seconds"] < entry[0] < now]
        known.append((now, count))
        times = [(one[0] + other[0]) / 2 - now for one, other in pairwise(known)]
        rates = [(other[1] - one[1]) / (other[0] - one[0]) for one, other in pairwise(known)]
        if len(rates) < 2:
            return max(0.0, sum(rates))
        slope, level = statistics.linear_regression(times, rates)
        lead = self._program["lead_seconds" if slope > 0.0 else "fall_lead_seconds"]
        return max(0.0, level + slope * lead)


def _shared_out(pool: Pool, wanted: int) -> dict[str, int]:
    """One by one to the first variant that has not all it may have."""
    sizes = {name: variant.min_replicas for name, variant in pool.variants.items()}
    left = wanted - sum(sizes.values())
    for name, variant in pool.variants.items():
        taken = max(0, min(left, variant.max_replicas - variant.min_replicas))
        sizes[name] += taken
        left -= taken
    return sizes
