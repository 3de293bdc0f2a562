"""Asking the policies of a pool: what they are shown is brought up to date before, and a set that fails is
replaced after, so that the dispatcher's event handlers see answers only.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.commands import Command, PolicySetRetired, SetReplicas
from gateway.core.events import OutputTokens
from gateway.core.guard import CallLog
from gateway.core.policy_set import PolicySet, Replaced
from gateway.core.pool import PoolState
from gateway.core.request_state import RequestState
from gateway.core.worker_state import CandidateSet, WorkerState, emptiest, fewest_in_flight
from policies.contract import Dispatched, Finished, FirstToken


class Decisions:
    """Of one dispatcher, over all pools.

    Args:
        calls: the guards' common log, begun anew with every event.
        changed: told of a pool whose policy set was replaced because it failed, or whose queue has another order.
    """

    def __init__(self, output_tokens: OutputTokens, calls: CallLog, changed: Callable[[PoolState], None]) -> None:
        self.calls = calls
        self.counts_read: dict[str, int] = {}
        """Of the output tokens, what was read for this event and had changed."""
        self._output_tokens = output_tokens
        self._changed = changed
        # Of the current event; the dispatcher sets them when one begins.
        self.num_events = 0
        self.now = 0.0
        self.out: list[Command] = []
        """Where commands go."""

    # --- requests ---

    def admitted(self, pool: PoolState, request: RequestState) -> bool:
        if not pool.schedules:
            return True
        if pool.refreshed_at != self.num_events:
            self._refresh(pool)
        pool.show_queue(self.now)
        guard = pool.guard
        admitted = guard.admit(request.request, pool.pool)
        if guard.tripped is not None:
            self._retire_failing(pool)
        return admitted

    def set_key(self, pool: PoolState, request: RequestState) -> None:
        """Ask for its place in the queue, once in the time of a policy set."""
        if not request.keyed:
            request.key, request.keyed = pool.guard.key(request.request), True
            self._retire_failing(pool)

    def route(
        self, pool: PoolState, request: RequestState, candidates: CandidateSet, in_hand: int = 0
    ) -> WorkerState | None:
        """The worker to send it to, None to hold it.

        Args:
            candidates: not empty; those that failed it are left out here while another remains.
            in_hand: 1 for an arrival, which is not in the queue and yet counts as held.
        """
        among = candidates
        if request.tried:
            candidates = candidates.without(request.tried)
        if not pool.routes:
            return fewest_in_flight(candidates)
        if pool.refreshed_at != self.num_events:
            self._refresh(pool)
        pool.show_queue(self.now, in_hand, in_hand * request.prompt_tokens)
        if pool.needs.cached:
            pool.show_cached(candidates, request)
        guard = pool.guard
        chosen = guard.route(request.request, candidates, pool.pool)
        if chosen is None:
            if candidates.all_smaller_than(request.prompt_tokens):
                chosen = emptiest(candidates)
            elif pool.holding is not None:
                pool.hold_head(request, among)
        if guard.tripped is not None:
            self._retire_failing(pool)
        return chosen

    def may_go(self, pool: PoolState, request: RequestState, candidates: CandidateSet) -> bool:
        """Whether the policy, which has held the request, is to be asked again."""
        policy = pool.holding
        if policy is None or pool.held is not request or pool.held_among is not candidates:
            return True
        for state in pool.freed_since(self.now):
            if pool.needs.output:
                pool.read_output(state, self._output_tokens, self.counts_read)
                state.publish_tokens()
            if pool.needs.age:
                state.publish_age(self.now)
            if pool.needs.latency:
                state.publish_latency()
            may_go = pool.guard.may_go(policy, request.request, state.worker)
            if pool.guard.tripped is not None:
                self._retire_failing(pool)
                return True
            if may_go:
                return True
        return False

    def dispatched(self, pool: PoolState, request: RequestState, state: WorkerState) -> None:
        if pool.observes:
            self._show(pool, request, state)
            self._retire_failing(pool)

    def observe(self, pool: PoolState, event: FirstToken | Finished) -> None:
        pool.guard.observe(event)
        self._retire_failing(pool)

    # --- the set ---

    def replace(self, pool: PoolState, policy_set: PolicySet) -> None:
        """The runner's wish: the set in place was good so far and is gone back to when this one fails."""
        pool.remember(pool.policy_set)
        self._install(pool, Replaced(policy_set, ()))
        self._retire_failing(pool)

    def rekey(self, pool: PoolState) -> None:
        """Everything held is put in the order that the scheduling policy gives it now."""
        self._order_anew(pool)
        self._changed(pool)
        self._retire_failing(pool)

    def _retire_failing(self, pool: PoolState) -> None:
        """Put the last good set back while the one in place has tripped its guard."""
        while (reason := pool.guard.tripped) is not None:
            restored = pool.history.pop() if pool.history else Replaced(PolicySet.builtin(), ())
            self.out.append(
                PolicySetRetired(pool.config.name, pool.policy_set.generation, restored.policy_set.generation, reason)
            )
            self._install(pool, restored)
            self._changed(pool)

    def _install(self, pool: PoolState, entry: Replaced) -> None:
        """Put a set in place, show its observers what is in flight, and order the queue by its key."""
        pool.replace(entry.policy_set)
        if entry.policy_set.observers:
            for request_id, worker_id in entry.in_flight:
                pool.guard.observe(Finished(self.now, request_id, worker_id, "cancelled", 0))
            for request in pool.in_flight.values():
                if request.worker is not None:
                    self._show(pool, request, request.worker)
        self._order_anew(pool)

    def _order_anew(self, pool: PoolState) -> None:
        pool.queue.rekey(lambda request: pool.guard.key(request.request))

    def _show(self, pool: PoolState, request: RequestState, state: WorkerState) -> None:
        pool.guard.observe(
            Dispatched(
                self.now,
                request.request_id,
                state.worker_id,
                request.tenant_name,
                request.prompt_tokens,
                request.cached_tokens,
            )
        )

    # --- replicas ---

    def scale(self, pool: PoolState) -> None:
        """Ask for the replicas wanted, within bounds and delays."""
        if pool.refreshed_at != self.num_events:
            self._refresh(pool)
        pool.show_queue(self.now)
        pool.show_variants()
        wishes = pool.guard.desired_replicas(pool.pool, tuple(pool.pool.variants))
        self._retire_failing(pool)
        for variant, target in pool.scaling.decide(self.now, pool.num_present(), wishes):
            self.out.append(SetReplicas(pool.config.name, variant, target))
        pool.show_variants()

    def read_output(self, pool: PoolState, state: WorkerState) -> None:
        pool.read_output(state, self._output_tokens, self.counts_read)

    def _refresh(self, pool: PoolState) -> None:
        """Needed once an event: what happens within it is published as it happens."""
        pool.refreshed_at = self.num_events
        pool.pool.now = self.now
        if pool.needs.anything:
            pool.refresh(self.now, self._output_tokens, self.counts_read)
