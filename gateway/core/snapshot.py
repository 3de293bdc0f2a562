"""The whole state of a dispatcher as plain JSON data, and a dispatcher made again of it: it decides as the first would.

Taken between two events. Everything that is learned, counted or held is in it, and what the policies remember
(``policy_memory``); what follows from that, such as heaps and views, is made anew. Its size is bounded as the state is:
by the requests that are held and in flight, the chunks of the prefix index, the tenants, the workers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from gateway.core.digest import state_digest
from gateway.core.dispatcher import Dispatcher
from gateway.core.estimates import Estimates, RunningMean, _Ratio
from gateway.core.events import RequestArrived, WorkerJoined, WorkerMetrics
from gateway.core.fair_share import FairShare, Tenant
from gateway.core.guard import Watch
from gateway.core.policy_memory import NotPlainError, extent, plain, remembered, remind, unplain
from gateway.core.policy_set import PolicySet, Replaced
from gateway.core.pool import PoolConfig, PoolState
from gateway.core.pool_codec import SetLoader, decode_pool, decode_set, encode_pool, encode_set
from gateway.core.prefix_index import PrefixIndex
from gateway.core.request_state import RequestState
from gateway.core.scaling import Scaling
from gateway.core.worker_state import WorkerState
from policies.contract import Request, Worker

State = dict[str, Any]

REQUEST_FIELDS = (
    *("arrival_time", "cached_tokens", "charged", "deadline", "dispatch_number", "dispatch_time"),
    *("expected_tokens", "first_token_time", "held_seconds", "held_since", "keyed", "limit", "limit_reason"),
    *("model", "num_attempts", "num_turned_away", "phase", "prefill_pending", "priority", "prompt_bytes"),
    *("prompt_tokens", "request_id", "seq", "stream", "tenant_name"),
)
WORKER_FIELDS = (
    *("draining", "expected_tokens", "healthy", "kv_capacity_tokens", "last_dispatch", "num_failures_in_row"),
    *("num_inflight_requests", "on_trial", "output_base", "output_seen", "prefill_tokens", "prompt_tokens"),
    *("rest_until", "resting", "room", "scraped_at", "scraped_inflight_tokens", "scraped_kv_usage"),
    *("shows_estimates", "shows_tokens", "variant", "worker_id"),
)
_REQUEST, _WORKER = attrgetter(*REQUEST_FIELDS), attrgetter(*WORKER_FIELDS)
_REQUEST_VIEW = tuple(field.name for field in fields(Request))
_WORKER_VIEW = tuple(field.name for field in fields(Worker))
_METRICS = tuple(field.name for field in fields(WorkerMetrics))
_OVER = -1
"""Stands for a request that is over, or somewhere else by now."""
_VALUES_A_RECORD = 20
"""So many of ``extent`` are as long as the record of an event."""


class RestoreError(Exception):
    """No dispatcher can be made of this state."""


def weight(dispatcher: Dispatcher) -> int:
    """About how many records of events a state is as long as, but for what the policies remember."""
    total = 8
    for pool in dispatcher.pools.values():
        total += 6 * (len(pool.in_flight) + len(pool.queue)) + 6 * len(pool.workers) + len(pool.prefix_index) // 6
        total += len(pool.fair_share.counters()) // 2
    return total


def memory_weight(state: State) -> int:
    """The rest of it: that is known when the state was taken."""
    sets = [one for pool in state["pools"] for one in (pool["set"], *(entry for entry, _ in pool["history"]))]
    return sum(extent(memories) for _, memories in sets) // _VALUES_A_RECORD


def take(dispatcher: Dispatcher) -> State:
    """The state after the latest event.

    Raises:
        NotPlainError: a policy remembers what cannot be told.
    """
    return {
        "now": dispatcher.now,
        "num_events": dispatcher.num_events,
        "num_dispatches": dispatcher.num_dispatches,
        "num_ignored": dict(dispatcher.num_ignored),
        "num_arrivals": dispatcher._num_arrivals,
        "num_policy_calls": dispatcher.num_policy_calls,
        "pools": [_take_pool(pool, dispatcher._requests.values()) for pool in dispatcher.pools.values()],
    }


def restore(
    state: Mapping[str, Any], digest: str, load: SetLoader, output_tokens: dict[str, int], watch: Watch | None
) -> Dispatcher:
    """A dispatcher with this state; ``output_tokens`` is filled with what it had read.

    Raises:
        RestoreError: it cannot be made, or is not the one that ``digest`` was taken of.
    """
    try:
        dispatcher = _restored(state, load, output_tokens, watch)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, NotPlainError) as error:
        raise RestoreError(f"its state is incomplete: {error!r}") from None
    if state_digest(dispatcher) != digest:
        raise RestoreError("the state made of it is another")
    return dispatcher


# --- out ---


def _take_pool(pool: PoolState, requests: Iterable[RequestState]) -> State:
    mine = [request for request in requests if request.pool is pool]
    states = list(pool.workers.values())
    known = {id(state): index for index, state in enumerate(states)}
    for state in (*(r.worker for r in mine if r.worker is not None), *pool.freed.values()):
        if known.setdefault(id(state), len(states)) == len(states):
            states.append(state)  # it left; what it has in flight is still to end
    indexes = {id(request): index for index, request in enumerate(mine)}
    fair = pool.fair_share
    tenants = list(fair._tenants.values())
    listed = {id(tenant) for tenant in tenants}
    for tenant in (*(r.tenant for r in mine), *((fair._last_left,) if fair._last_left else ())):
        if id(tenant) not in listed:
            listed.add(id(tenant))
            tenants.append(tenant)
    stranded = pool.queue._stranded
    held_among = pool.held is not None and pool._candidates.get(pool.held.model) is pool.held_among
    return {
        "config": encode_pool(replace(pool.config, policy_set=None)),
        "set": _take_set(pool.policy_set),
        "history": [[_take_set(entry.policy_set), list(entry.in_flight)] for entry in pool.history],
        "guard": [
            [[*key, count] for key, count in pool.guard.num_failures.items()],
            pool.guard.last_failure,
            pool.guard._num_calls,
            list(pool.guard._failed_calls),
        ],
        "workers": [_take_worker(state, indexes) for state in states],
        "num_workers": len(pool.workers),
        "tenants": [[t.name, t.order, t.counter] for t in tenants],
        "fair_share": [len(fair._tenants), fair._num_seen, fair._last_left and fair._last_left.order],
        "requests": [_take_request(r, known.get(id(r.worker), -1) if r.worker else -1) for r in mine],
        "held": [[indexes[id(r)], r.request_id in stranded] for r in sorted(pool.queue, key=_stamp)],
        "in_flight": [indexes[id(request)] for request in pool.in_flight.values()],
        "holding": [indexes.get(id(pool.held), -1), held_among, [known[id(s)] for s in pool.freed.values()]],
        "candidates": list(pool._candidates),
        "views": [pool._cached_shown, pool.expects_first_tokens],
        "estimates": _take_estimates(pool.estimates),
        "prefixes": [[w, list(b.chunks), list(b.chunks.values())] for w, b in pool.prefix_index._workers.items()],
        "scaling": _take_scaling(pool.scaling),
        "retry_budget": [pool.retry_budget.balance, pool.retry_budget._refilled_at],
    }


def _stamp(request: RequestState) -> int:
    return request.stamp


def _take_set(policy_set: PolicySet) -> list[Any]:
    return [encode_set(policy_set), remembered(policy_set)]


def _take_request(request: RequestState, worker: int) -> list[Any]:
    view = request.request
    shown = [getattr(view, name) for name in _REQUEST_VIEW]
    return [
        _REQUEST(request),
        [plain(request.key), request.prefix_keys, request.tried],
        plain(tuple(shown)),
        request.tenant.order,
        worker,
    ]


def _take_worker(state: WorkerState, indexes: Mapping[int, int]) -> list[Any]:
    return [
        _WORKER(state),
        state.models,
        [getattr(state.metrics, name) for name in _METRICS],
        list(state.changes),
        [_take_mean(state.latency.ttft), _take_mean(state.latency.tpot)],
        [[due, n, indexes.get(id(r), _OVER) if r.worker is state else _OVER] for due, n, r in state.unstreamed],
        plain(tuple(getattr(state.worker, name) for name in _WORKER_VIEW)),
        state.candidate.num_cached_tokens,
    ]


def _take_mean(mean: RunningMean) -> list[Any]:
    return [mean.count, mean.value]


def _means(estimates: Estimates) -> tuple[RunningMean, ...]:
    latency = estimates.latency
    return (estimates.prompt_tokens, estimates.output_tokens, latency.ttft, latency.tpot)


def _take_estimates(estimates: Estimates) -> list[Any]:
    arrivals = estimates.arrivals
    return [
        [[model, ratio.num_bytes, ratio.num_tokens] for model, ratio in estimates._ratios.items()],
        [[*key, mean.count, mean.value] for key, mean in estimates._outputs.items()],
        [_take_mean(mean) for mean in _means(estimates)],
        [arrivals._num, arrivals._weight, arrivals._last],
        [estimates.num_arrived_requests, estimates.num_arrived_prompt_tokens],
    ]


def _take_scaling(scaling: Scaling) -> list[Any]:
    variants = scaling.variants.items()
    return [
        scaling._due,
        [[name, v.asked, v._since, list(v._starting), list(v._wishes)] for name, v in variants],
    ]


# --- in ---


def _restored(
    state: Mapping[str, Any], load: SetLoader, output_tokens: dict[str, int], watch: Watch | None
) -> Dispatcher:
    configs = [decode_pool(pool["config"], load) for pool in state["pools"]]
    dispatcher = Dispatcher(configs, output_tokens=output_tokens, watch=watch)
    output_tokens.clear()
    requests: dict[int, RequestState] = {}
    for config, pool in zip(configs, state["pools"], strict=True):
        _put_pool(dispatcher, config, pool, load, output_tokens)
        requests.update((request.seq, request) for request in _put_requests(dispatcher.pools[config.name], pool))
    dispatcher._requests.update((requests[seq].request_id, requests[seq]) for seq in sorted(requests))
    dispatcher.now, dispatcher.num_events = state["now"], state["num_events"]
    dispatcher.num_dispatches, dispatcher._num_arrivals = state["num_dispatches"], state["num_arrivals"]
    dispatcher.num_ignored = dict(state["num_ignored"])
    dispatcher._decisions.calls.num_calls = state["num_policy_calls"]
    return dispatcher


def _put_pool(
    dispatcher: Dispatcher, config: PoolConfig, state: Mapping[str, Any], load: SetLoader, counts: dict[str, int]
) -> None:
    pool = dispatcher.pools[config.name]
    for fields_, models, *_ in state["workers"][: state["num_workers"]]:
        told = dict(zip(WORKER_FIELDS, fields_, strict=True))
        joined = WorkerJoined(0.0, told["worker_id"], config.name, told["variant"], tuple(models))
        dispatcher.handle(joined)
        counts[told["worker_id"]] = told["output_seen"]
    current = _put_set(config.name, state["set"], load)
    pool.guard.replace(current)
    pool._use(current)
    pool.history[:] = [
        Replaced(_put_set(config.name, entry, load), tuple((r, w) for r, w in told)) for entry, told in state["history"]
    ]
    failures, pool.guard.last_failure, pool.guard._num_calls, failed_calls = state["guard"]
    pool.guard.num_failures = {(slot, reason): count for slot, reason, count in failures}
    pool.guard._failed_calls.extend(failed_calls)
    _put_estimates(pool.estimates, state["estimates"])
    _put_prefixes(pool.prefix_index, state["prefixes"])
    _put_scaling(pool.scaling, state["scaling"])
    pool.retry_budget.balance, pool.retry_budget._refilled_at = state["retry_budget"]


def _put_set(pool: str, state: list[Any], load: SetLoader) -> PolicySet:
    policy_set = decode_set(pool, state[0], load)
    remind(policy_set, state[1])
    return policy_set


def _put_requests(pool: PoolState, state: Mapping[str, Any]) -> list[RequestState]:
    tenants = _put_tenants(pool.fair_share, state)
    requests = [_put_request(pool, told, tenants) for told in state["requests"]]
    workers = _put_workers(pool, state, requests)
    for request, told in zip(requests, state["requests"], strict=True):
        request.worker = workers[told[4]] if told[4] >= 0 else None
    pool.in_flight.update((requests[index].request_id, requests[index]) for index in state["in_flight"])
    pool.workers_changed()
    for model in state["candidates"]:
        pool.candidates(model)
    for index, is_stranded in state["held"]:
        pool.queue.push(requests[index])
        if is_stranded:
            pool.queue.strand(requests[index])
    _put_counters(pool.fair_share, state, tenants)
    held, among_is_new, freed = state["holding"]
    if held >= 0:
        pool.held = requests[held]
        pool.held_among = pool.candidates(pool.held.model) if among_is_new else None
    pool.freed.update((workers[index].worker_id, workers[index]) for index in freed)
    pool._cached_shown, pool.expects_first_tokens = state["views"]
    return requests


def _put_request(pool: PoolState, told: list[Any], tenants: Mapping[int, Tenant]) -> RequestState:
    values, (key, prefix_keys, tried), shown, tenant, _ = told
    view = Request(*unplain(shown))
    saved = dict(zip(REQUEST_FIELDS, values, strict=True))
    event = RequestArrived(saved["arrival_time"], saved["request_id"], saved["model"])
    request = RequestState(view, event, pool, tenants[tenant], saved["seq"])
    for name, value in saved.items():
        setattr(request, name, value)
    request.key, request.tried = unplain(key), tuple(tried)
    request.prefix_keys = tuple((chunk, tokens) for chunk, tokens in prefix_keys)
    return request


def _put_workers(pool: PoolState, state: Mapping[str, Any], requests: list[RequestState]) -> list[WorkerState]:
    there = list(pool.workers.values())
    over = RequestState(
        Request("", "", "", None, 0.0, 1, None, 0.0), RequestArrived(0.0, "", ""), pool, Tenant("", 0), 0
    )
    for index, (values, models, metrics, changes, latency, unstreamed, shown, cached) in enumerate(state["workers"]):
        saved = dict(zip(WORKER_FIELDS, values, strict=True))
        if index >= len(there):
            there.append(WorkerState(WorkerJoined(0.0, saved["worker_id"], pool.config.name, saved["variant"])))
        worker = there[index]
        for name, value in saved.items():
            setattr(worker, name, value)
        worker.models, worker.metrics = tuple(models), WorkerMetrics(*metrics)
        worker.changes.extend((time, tokens) for time, tokens in changes)
        _put_mean(worker.latency.ttft, latency[0])
        _put_mean(worker.latency.tpot, latency[1])
        worker.unstreamed = [(due, n, over if r == _OVER else requests[r]) for due, n, r in unstreamed]
        for name, value in zip(_WORKER_VIEW, unplain(shown), strict=True):
            setattr(worker.worker, name, value)
        worker.candidate.num_cached_tokens = cached
    return there


def _put_tenants(fair: FairShare, state: Mapping[str, Any]) -> dict[int, Tenant]:
    """By their order, which is unique."""
    num_listed, num_seen, _ = state["fair_share"]
    tenants = {order: Tenant(name, order) for name, order, _ in state["tenants"]}
    fair._tenants.update((tenant.name, tenant) for tenant in list(tenants.values())[:num_listed])
    fair._num_seen = num_seen
    return tenants


def _put_counters(fair: FairShare, state: Mapping[str, Any], tenants: Mapping[int, Tenant]) -> None:
    """After the queue: whoever comes into it is lifted, and these were."""
    for _, order, counter in state["tenants"]:
        tenants[order].counter = counter
        for heap in tenants[order].heaps:
            heap.changed(tenants[order])
    last_left = state["fair_share"][2]
    fair._last_left = None if last_left is None else tenants[last_left]


def _put_mean(mean: RunningMean, told: list[Any]) -> None:
    mean.count, mean.value = told


def _put_estimates(estimates: Estimates, state: list[Any]) -> None:
    ratios, outputs, means, arrivals, arrived = state
    for model, num_bytes, num_tokens in ratios:
        ratio = estimates._ratios[model] = _Ratio(0.0)
        ratio.num_bytes, ratio.num_tokens = num_bytes, num_tokens
    for model, tenant, *told in outputs:
        _put_mean(estimates._mean((model, tenant)), told)
    for mean, told in zip(_means(estimates), means, strict=True):
        _put_mean(mean, told)
    estimates.arrivals._num, estimates.arrivals._weight, estimates.arrivals._last = arrivals
    estimates.num_arrived_requests, estimates.num_arrived_prompt_tokens = arrived


def _put_prefixes(index: PrefixIndex, state: list[Any]) -> None:
    for worker_id, keys, tokens in state:
        believed = index._workers[worker_id]
        believed.chunks = OrderedDict(zip(keys, tokens, strict=True))
        believed.num_tokens = sum(tokens)


def _put_scaling(scaling: Scaling, state: list[Any]) -> None:
    scaling._due, variants = state
    for name, asked, since, starting, wishes in variants:
        variant = scaling.variants[name]
        variant.asked, variant._since = asked, since
        variant._starting.extend(starting)
        variant._wishes.extend((time, wish) for time, wish in wishes)
