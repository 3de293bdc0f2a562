"""Which quantities tell anything apart in a scenario: a policy that reads a constant reads noise.

One simulation with a recording policy finds out. What is left out is written down with the reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from designer.proposers.vocabulary import QUANTITIES, Number
from designer.simulator.scenario import Scenario
from designer.simulator.world import simulate
from gateway.core.policy_set import PolicySet
from policies.contract import Candidate, Pool, Request

_EVERY = 7
"""One decision of so many is looked at."""
_LEAST_SPREAD = 0.15
"""Standard deviation over mean of what differs between requests that wait at the same time."""
_NEIGHBOURS = 40
_OF_THE_QUEUE = frozenset({"pool.num_queued_requests", "pool.num_queued_prompt_tokens", "pool.seconds_waited"})
"""They vary only under a policy that holds, and so are always offered."""


class Recorder:
    """Fewest in flight, and writes down what a policy could have read."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Number]] = {name: [] for name in QUANTITIES}
        self._num_calls = 0

    def route(self, request: Request, candidates: Sequence[Candidate], pool: Pool) -> Candidate | None:
        chosen = min(candidates, key=lambda candidate: candidate.worker.num_inflight_requests)
        self._num_calls += 1
        if self._num_calls % _EVERY == 0:
            for quantity in QUANTITIES.values():
                self.samples[quantity.name].append(quantity.read(request, chosen, pool))
        return chosen


def left_out(scenario: Scenario, seed: int) -> Mapping[str, str]:
    """The quantities that tell nothing in this scenario, each with why."""
    recorder = Recorder()
    reads = frozenset(name.partition(".")[2] for name in QUANTITIES) | {"now"}
    simulate(scenario, lambda: PolicySet(0, routing=recorder, reads=reads), seed)
    return {name: why for name, values in recorder.samples.items() if (why := _problem(name, values))}


def _problem(name: str, values: Sequence[Number]) -> str:
    quantity = QUANTITIES[name]
    if name in _OF_THE_QUEUE:
        return ""
    if quantity.needs_capacity:
        return "" if values and max(values) > 0 else "unknown here"
    if not values or min(values) == max(values):
        return f"always {values[0]:g}" if values else "never read"
    if quantity.scope == "request" and quantity.unit == "tokens" and _spread(values) < _LEAST_SPREAD:
        return "all but alike between requests that wait together"
    return ""


def _spread(values: Sequence[Number]) -> float:
    """Median, over runs of neighbours, of the standard deviation over the mean."""
    runs = [values[n : n + _NEIGHBOURS] for n in range(0, max(1, len(values) - _NEIGHBOURS), _NEIGHBOURS)]
    return statistics.median(statistics.pstdev(run) / max(1e-9, statistics.fmean(run)) for run in runs)
