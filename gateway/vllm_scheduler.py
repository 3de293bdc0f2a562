"""A batch policy inside vLLM: ``vllm serve MODEL --scheduler-cls gateway.vllm_scheduler.PolicyScheduler
--additional-config '{"ranvier_batch_policy": "SOURCE"}'``.

Imported by vLLM alone, in its engine process. vLLM's scheduler does its own work: the policy is given the order of the
waiting queue, the choice of the victim and the bound on a step's prompt tokens, by what vLLM lets a subclass set: its
waiting queue, a request's priority and ``max_num_scheduled_tokens``. Decoding requests are served before those that
prefill, so that the bound is on prompts alone.

The interface of vLLM's schedulers is not a stable one. Held against vLLM 0.32 by ``tests/twin``.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy

from gateway.batch_guard import OPTION, BatchGuard, WaitingHeap, load_batch_policy, log, victim_ranks
from gateway.core.guard import SortKey

_VIEW = "ranvier_view"
"""Attribute of a vLLM request that holds its view."""


class RequestView:
    """A vLLM request as ``BatchRequest`` shows it; live."""

    __slots__ = ("_request", "order", "priority")

    def __init__(self, request: Any) -> None:
        self._request = request
        self.priority = -int(request.priority)
        self.order = 0
        """How many were admitted before it, and it; 0 while it waits."""

    @property
    def request_id(self) -> str:
        return str(self._request.request_id)

    @property
    def num_prompt_tokens(self) -> int:
        return int(self._request.num_prompt_tokens)

    @property
    def num_computed_tokens(self) -> int:
        return int(self._request.num_computed_tokens)

    @property
    def num_output_tokens(self) -> int:
        """Those on their way from the last step included."""
        return int(self._request.num_output_tokens + self._request.num_output_placeholders)

    @property
    def arrival_time(self) -> float:
        return float(self._request.arrival_time)

    @property
    def num_preemptions(self) -> int:
        return int(self._request.num_preemptions)


class EngineView:
    """A vLLM scheduler as ``BatchEngine`` shows it; live."""

    __slots__ = ("_scheduler", "max_num_batched_tokens")

    def __init__(self, scheduler: Any, max_num_batched_tokens: int) -> None:
        self._scheduler = scheduler
        self.max_num_batched_tokens = max_num_batched_tokens

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        return int(self._scheduler.get_request_counts()[1])

    @property
    def num_free_blocks(self) -> int:
        return int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def num_blocks(self) -> int:
        """Without vLLM's null block."""
        return int(self._scheduler.kv_cache_manager.block_pool.num_gpu_blocks) - 1


class _Queue(WaitingHeap[Any], RequestQueue):  # type: ignore[misc]
    """vLLM's waiting queue, in the policy's order."""


def _view(request: Any) -> RequestView:
    view = getattr(request, _VIEW, None)
    if view is None:
        view = RequestView(request)
        setattr(request, _VIEW, view)
    return view


class PolicyScheduler(AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler with the batch policy that ``--additional-config`` names. Works with and without async
    scheduling.

    Raises:
        PolicyLoadError: at start, when there is no such policy or it breaks the contract.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        loaded = load_batch_policy(self.vllm_config.additional_config.get(OPTION))
        self._guard = BatchGuard(loaded.policy)  # type: ignore[arg-type]
        flags = self.scheduler_config
        self._most_tokens = int(flags.max_num_scheduled_tokens or flags.max_num_batched_tokens)
        self._engine = EngineView(self, self._most_tokens)
        self._members: object = None
        self._prefill_budget = self._most_tokens
        self.policy = SchedulingPolicy.PRIORITY
        self.waiting = _Queue(self._begin_waiting)
        self._num_admitted = 0
        log.info("batch policy %s %s", loaded.name, loaded.policy_hash[:12])

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """One step, within the policy's bound."""
        self.waiting.forget(self.finished_req_ids)
        self._sort_running()
        num_decodes = sum(not (request.is_prefill_chunk or _is_ending(request)) for request in self.running)
        budget = self._ask_prefill_budget()
        tokens = min(self._most_tokens, num_decodes + (budget if num_decodes else max(1, budget)))
        self._rank_victims(tokens)
        self.max_num_scheduled_tokens = tokens
        try:
            return super().schedule(*args, **kwargs)
        finally:
            self.max_num_scheduled_tokens = self._most_tokens
            self._guard.step_ended()

    def _begin_waiting(self, request: Any) -> SortKey:
        view = _view(request)
        view.order = 0
        return self._guard.waiting_key(view)

    def _sort_running(self) -> None:
        """Those that decode first, each in the order of their admission."""
        for request in self.running:
            view = _view(request)
            if not view.order:
                self._num_admitted = view.order = self._num_admitted + 1
        self.running.sort(key=lambda request: (request.is_prefill_chunk, _view(request).order))

    def _ask_prefill_budget(self) -> int:
        """The policy's, asked anew when running or waiting have changed."""
        members = (self.waiting.num_changes, [request.request_id for request in self.running])
        if members != self._members:
            self._members = members
            self._prefill_budget = self._guard.prefill_budget(self._engine)
        return self._prefill_budget

    def _rank_victims(self, tokens: int) -> None:
        """Before a step that may be short of blocks: vLLM preempts the largest priority first."""
        groups = len(self.kv_cache_config.kv_cache_groups)
        lookahead = 1 + self.num_lookahead_tokens // self.block_size
        most_blocks = (tokens // self.block_size + len(self.running) * (1 + lookahead)) * groups
        if self._engine.num_free_blocks >= most_blocks:
            return
        alive = [request for request in self.running if not _is_ending(request)]
        ranks = victim_ranks(alive, lambda request: self._guard.victim_key(_view(request)))
        for n, request in enumerate(self.running, len(alive)):
            request.priority = ranks.get(request.request_id, n)  # its view holds the client's


def _is_ending(request: Any) -> bool:
    """Async scheduling: its last token is on its way, and vLLM schedules it no more."""
    pending = request.num_output_placeholders
    known = request.num_computed_tokens + 2 - pending
    return bool(pending > 0 and known >= request.num_prompt_tokens + request.max_tokens)
