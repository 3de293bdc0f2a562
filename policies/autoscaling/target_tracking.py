"""As many replicas as keep the requests per replica at a target; quick up, slow down.

Wanted is ``ceil((in flight + queued) / target)``: it counts requests, not a ratio of rates, so no traffic is simply
0 and the runner's minimum holds. A change within ``tolerance`` of the present size is not made, and a smaller size
is taken only when every answer of the last ``stabilization_seconds`` was at most that small, so 2 to 1 to 2 does not
flap. Replicas that are starting count as present, so one that never starts is not asked for twice, and as the answer
is a total, it does not block a later change either. With several variants the first is filled to its maximum, then
the next: list the cheapest first.

Source: the Kubernetes HorizontalPodAutoscaler with a target ``AverageValue`` (documentation, "Algorithm details"):
the ceiling, the tolerance of 0.1 and the downscale stabilization window of 300 s are its defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from policies.contract import Pool, Rng


class TargetTracking:
    def __init__(self, target: float, tolerance: float, stabilization_seconds: float) -> None:
        self._target = target
        self._tolerance = tolerance
        self._stabilization_seconds = stabilization_seconds
        self._recent: list[tuple[float, int]] = []

    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        present = sum(variant.num_ready + variant.num_starting for variant in pool.variants.values())
        wanted = self._stabilized(self._wanted(pool, present), pool.now)
        return _filled(pool, wanted)

    def _wanted(self, pool: Pool, present: int) -> int:
        load = pool.num_inflight_requests + pool.num_queued_requests
        if present > 0 and abs(load / (present * self._target) - 1.0) <= self._tolerance:
            return present
        return math.ceil(load / self._target)

    def _stabilized(self, wanted: int, now: float) -> int:
        """The largest answer in the window; only those larger than all after them need be kept."""
        oldest = now - self._stabilization_seconds
        self._recent = [(time, size) for time, size in self._recent if time > oldest and size > wanted]
        self._recent.append((now, wanted))
        return self._recent[0][1]


def _filled(pool: Pool, wanted: int) -> Mapping[str, int]:
    left = wanted - sum(variant.min_replicas for variant in pool.variants.values())
    sizes: dict[str, int] = {}
    for name, variant in pool.variants.items():
        more = max(0, min(left, variant.max_replicas - variant.min_replicas))
        sizes[name] = variant.min_replicas + more
        left -= more
    return sizes


def create(
    rng: Rng, *, target: float = 32.0, tolerance: float = 0.1, stabilization_seconds: float = 300.0
) -> TargetTracking:
    """``target``: requests per replica, above 0. ``tolerance``: a fraction of the target, at least 0."""
    if target <= 0 or tolerance < 0 or stabilization_seconds < 0:
        raise ValueError("target must be above 0, tolerance and stabilization_seconds at least 0")
    return TargetTracking(target, tolerance, stabilization_seconds)
