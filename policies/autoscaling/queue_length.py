"""As many replicas as keep the requests that wait per replica at a target; quick up, slow down.

Waiting are the requests in the engines' own queues at the last scrape, and those held here. Wanted is
``ceil(waiting / target)``: while nothing waits that is none, and the runner's minimum holds, so all that keeps replicas
there is the window: a smaller size is taken only when every answer of the last ``stabilization_seconds`` was at most
that small. A queue is a late sign: engines batch, so little waits until they are full, and then much.

With several variants the first is filled to its maximum, then the next: list the cheapest first.

Source: the autoscaling example of vLLM's production stack, which scales on ``vllm:num_requests_waiting`` at 5 a
replica through KEDA, and so by the Kubernetes HorizontalPodAutoscaler with a target ``AverageValue``; the window of
300 s is the latter's default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from policies.contract import Pool, Rng


class QueueLength:
    def __init__(self, target: float, stabilization_seconds: float) -> None:
        self._target = target
        self._stabilization_seconds = stabilization_seconds
        self._recent: list[tuple[float, int]] = []

    def desired_replicas(self, pool: Pool) -> Mapping[str, int]:
        waiting = sum(worker.num_requests_waiting for worker in pool.workers) + pool.num_queued_requests
        return _filled(pool, self._stabilized(math.ceil(waiting / self._target), pool.now))

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


def create(rng: Rng, *, target: float = 5.0, stabilization_seconds: float = 300.0) -> QueueLength:
    """``target``: waiting requests per replica, above 0."""
    if target <= 0 or stabilization_seconds < 0:
        raise ValueError("target must be above 0, stabilization_seconds at least 0")
    return QueueLength(target, stabilization_seconds)
