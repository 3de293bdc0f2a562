"""A step in which tokens or blocks are short: composed request by request, in vLLM's order."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from gateway.mockworker.batch import Batch
from gateway.mockworker.engine_types import BatchPolicy, EngineConfig
from gateway.mockworker.live_request import DECODING, ENDED, PREFILLING, WAITING, LiveRequest, Losses


class Contention(Batch):
    """Who waits, who makes room and comes back to wait."""

    __slots__ = ("_fcfs", "_most_tokens", "_policy", "_ranked", "_waiting", "num_preemptions")

    def __init__(self, config: EngineConfig, batch_policy: BatchPolicy | None) -> None:
        super().__init__(config)
        self.num_preemptions = 0
        self._policy = batch_policy
        self._fcfs = batch_policy is None and config.scheduling_policy == "fcfs"
        self._most_tokens = config.max_num_batched_tokens
        self._waiting: deque[LiveRequest] = deque()
        """FCFS; any other order is in ``_ranked``."""
        self._ranked: list[tuple[Any, LiveRequest]] = []

    def _wait(self, request: LiveRequest, *, front: bool = False) -> None:
        self._membership_changed = True
        if self._fcfs:
            if front:
                self._waiting.appendleft(request)
            else:
                self._waiting.append(request)
            return
        if self._policy is not None:
            order: Any = (self._policy.waiting_key(self._view(request)), request.arrival, request.sequence)
        else:
            order = (request.spec.priority, request.arrival, request.spec.request_id)
        heapq.heappush(self._ranked, (order, request))

    def _withdraw(self, request: LiveRequest) -> None:
        """A waiting request is cancelled."""
        self._waiting = deque(r for r in self._waiting if r is not request)
        self._ranked = [entry for entry in self._ranked if entry[1] is not request]
        heapq.heapify(self._ranked)
        self._membership_changed = True

    def _contend(self, now: int, prefill_left: int, threshold: int) -> int:
        """Compose the step; the last running request makes room. What it leaves of ``prefill_left``."""
        size, left = self._block_size, self._most_tokens
        shares: dict[LiveRequest, int] = {}
        order, index = list(self._running), 0
        if self._policy is not None:
            order.sort(key=lambda r: r.state == PREFILLING)
            left = prefill_left = min(left, self._num_decoding + prefill_left)
        withheld = self._most_tokens - left
        while index < len(order) and left:
            request = order[index]
            index += 1
            if request.state == DECODING:
                share, computed = 1, self._count + request.offset - 1
            else:
                computed = request.computed
                share = min(request.target - computed, left, prefill_left, threshold)
            if share <= 0 or request.state == ENDED:
                continue
            blocks = -(-(computed + share) // size) - -(-computed // size)
            while blocks > self._cache.num_free and request.state != WAITING:
                victim = self._victim(order)
                given = shares.pop(victim, 0)
                left += given
                prefill_left += given if victim.state == PREFILLING else 0
                index -= order.index(victim) < index
                order.remove(victim)
                self._preempt(victim, given, now)
            if request.state == WAITING:
                break
            self._cache.num_free -= blocks
            if request.state == PREFILLING:
                prefill_left -= share
                if request.num_held < request.num_keyed:
                    self._cache_keyed(request, computed + share)
            shares[request] = share
            left -= share
        self._compose(shares, left + withheld)
        return min(left, prefill_left)

    def _compose(self, shares: dict[LiveRequest, int], left: int) -> None:
        made = [r for r in shares if r.state == DECODING]
        self._num_made = len(made)
        self._contexts = len(made) * self._count + sum([r.offset for r in made])
        self._chunks = [(r, share) for r, share in shares.items() if r.state == PREFILLING]
        self._starved = []
        if len(made) < self._num_decoding:
            self._starved = [r for r in self._running if r.state == DECODING and r not in shares]
        self._tokens_left = left
        self._repeats = False

    def _victim(self, order: list[LiveRequest]) -> LiveRequest:
        policy = self._policy
        if policy is not None:
            alive = [r for r in order if r.state != ENDED]
            if len(alive) < len(order):
                return next(r for r in reversed(order) if r.state == ENDED)
            return max(alive[:0:-1] or alive, key=lambda r: policy.victim_key(self._view(r)))
        if self._fcfs:
            return order[-1]
        # vLLM compares no further than arrival; two that arrived at once would then preempt each other for ever.
        return max(order, key=lambda r: (r.spec.priority, r.arrival, r.spec.request_id))

    def _preempt(self, victim: LiveRequest, share: int, now: int) -> None:
        """``share``: its tokens in the step being composed, whose blocks it has already."""
        self.num_preemptions += 1
        if victim.state == ENDED:
            self._ended.remove(victim)
            self._release([victim], self._num_known(victim, victim.computed, 0))
            return
        num_tokens = self._num_tokens(victim)
        computed = known = victim.computed
        if victim.state == DECODING:
            computed = num_tokens - 1
            known = self._num_known(victim, computed, share)
            self._forget_decoding(victim)
        else:
            known += share
            self._prefilling.remove(victim)
        victim.state = WAITING
        del self._running[victim]
        self._give_back(victim, computed + share, known, comes_back=True)
        losses = victim.losses
        if losses is None:
            losses = victim.losses = Losses(victim.num_cached)
        losses.add(computed)
        losses.num_preemptions += 1
        if losses.preempted_at < 0:
            losses.preempted_at = now
        victim.target = num_tokens
        victim.computed = 0
        self._wait(victim, front=True)

    def _num_known(self, request: LiveRequest, computed: int, share: int) -> int:
        """Tokens of one that decodes, or has just ended, whose blocks are hashed by now if they are full.

        Async scheduling decides a step before it has the token of the one before, and can hash no block with it.
        """
        if not self._async or request in self._starved:
            return computed + share
        if request.starved_at == self._count - 1:
            return computed
        return max(request.target, computed + share - 1)
