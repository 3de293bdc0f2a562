"""Pools and workers as they are at this moment, for the admin API, the metrics page and the readiness check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric

from gateway.core.pool import PoolState
from gateway.core.worker_state import WorkerState
from gateway.discovery.added import AddedWorkers
from gateway.discovery.membership import Member, Membership
from gateway.telemetry.metrics import counter, gauge
from gateway.telemetry.scraper import Scraper


class PoolsView:
    """Reads the dispatcher's state and never changes it."""

    def __init__(
        self,
        pools: Mapping[str, PoolState],
        membership: Membership,
        scraper: Scraper,
        clock: Callable[[], float],
    ) -> None:
        self._pools, self._membership, self._scraper, self._clock = pools, membership, scraper, clock

    def pool_of(self, worker_id: str) -> str:
        """Empty when the worker is not there."""
        member = self._membership.members.get(worker_id)
        return (member.worker.pool or "") if member else ""

    def in_flight(self, worker_id: str) -> int:
        """Requests sent to the worker that are not over."""
        state = self._state(worker_id)
        return state.num_inflight_requests if state else 0

    def num_held(self, pool: str) -> int:
        """Requests in the queue of the pool."""
        return self._pools[pool].queue.num_requests

    def num_ready(self) -> int:
        """Workers that take requests, over all pools."""
        return sum(state.takes_requests for pool in self._pools.values() for state in pool.workers.values())

    def pools(self) -> list[dict[str, Any]]:
        return [self._pool(pool) for pool in self._pools.values()]

    def workers(self) -> list[dict[str, Any]]:
        return [self._worker(member) for member in self._membership.members.values()]

    def worker(self, worker_id: str) -> dict[str, Any]:
        return self._worker(self._membership.members[worker_id])

    def _pool(self, pool: PoolState) -> dict[str, Any]:
        failures = pool.guard.num_failures.items()
        return {
            "name": pool.config.name,
            "models": list(pool.config.models),
            "generation": pool.policy_set.generation,
            "num_queued_requests": pool.queue.num_requests,
            "num_queued_prompt_tokens": pool.queue.num_prompt_tokens,
            "num_inflight_requests": len(pool.in_flight),
            "num_workers": len(pool.workers),
            "num_ready_workers": sum(state.takes_requests for state in pool.workers.values()),
            "guard_failures": {f"{slot}/{reason}": count for (slot, reason), count in failures},
            "guard_last_failure": pool.guard.last_failure,
        }

    def _worker(self, member: Member) -> dict[str, Any]:
        worker = member.worker
        sight = self._scraper.sights.get(worker.worker_id)
        row: dict[str, Any] = {
            "worker_id": worker.worker_id,
            "url": worker.url,
            "pool": worker.pool,
            "variant": worker.variant,
            "source": member.source,
            "added_at_run_time": member.source == AddedWorkers.name,
            "state": member.state,
            "healthy": bool(sight and sight.healthy),
            "models": list(sight.models if sight else worker.models),
            "last_error": sight.last_error if sight else "",
            "metrics_age_seconds": self._age(worker.worker_id),
        }
        state = self._state(worker.worker_id)
        if state is not None:
            row |= {
                "num_inflight_requests": state.num_inflight_requests,
                "num_inflight_tokens": state.num_inflight_tokens,
                "num_requests_running": state.metrics.num_requests_running,
                "num_requests_waiting": state.metrics.num_requests_waiting,
                "kv_cache_usage": state.metrics.kv_cache_usage,
                "kv_capacity_tokens": state.metrics.kv_capacity_tokens,
            }
        return row

    def _age(self, worker_id: str) -> float | None:
        sight = self._scraper.sights.get(worker_id)
        if sight is None or sight.last_metrics_at is None:
            return None
        return round(self._clock() - sight.last_metrics_at, 3)

    def _state(self, worker_id: str) -> WorkerState | None:
        pool = self._pools.get(self.pool_of(worker_id))
        return pool.workers.get(worker_id) if pool else None

    def collect(self) -> Iterable[Metric]:
        """For ``GatewayMetrics.add_collector``."""
        pools = self._pools.values()
        yield gauge(
            "ranvier_queue_requests", "Held now.", ["pool"], (([p.config.name], p.queue.num_requests) for p in pools)
        )
        yield gauge(
            "ranvier_queue_prompt_tokens",
            "Prompt tokens held now.",
            ["pool"],
            (([p.config.name], p.queue.num_prompt_tokens) for p in pools),
        )
        yield gauge(
            "ranvier_policy_generation",
            "Of the running policy set.",
            ["pool"],
            (([p.config.name], p.policy_set.generation) for p in pools),
        )
        yield gauge(
            "ranvier_policy_info",
            "Always 1: what fills each slot.",
            ["pool", "slot", "policy", "hash"],
            (
                ([p.config.name, slot, i.name, i.policy_hash[:16]], 1)
                for p in pools
                for slot, i in p.policy_set.identities.items()
            ),
        )
        yield counter(
            "ranvier_policy_failures",
            "Policy calls whose answer was not used.",
            ["pool", "slot", "reason"],
            (([p.config.name, *key], n) for p in pools for key, n in p.guard.num_failures.items()),
        )
        yield from self._collect_workers()

    def _collect_workers(self) -> Iterable[Metric]:
        rows = [(state, pool.config.name) for pool in self._pools.values() for state in pool.workers.values()]
        names = ["pool", "worker"]
        yield gauge(
            "ranvier_worker_inflight_requests",
            "Sent and not over.",
            names,
            (([pool, s.worker_id], s.num_inflight_requests) for s, pool in rows),
        )
        yield gauge(
            "ranvier_worker_ready",
            "1: takes requests.",
            names,
            (([pool, s.worker_id], s.takes_requests) for s, pool in rows),
        )
        ages = ((pool, s.worker_id, self._age(s.worker_id)) for s, pool in rows)
        yield gauge(
            "ranvier_scrape_age_seconds",
            "Since the worker's metrics were read.",
            names,
            (([pool, worker_id], age) for pool, worker_id, age in ages if age is not None),
        )
