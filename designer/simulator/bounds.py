"""A proven lower bound on the mean response time of any policy whatever, on the requests of one run.

Four bounds, each with its proof; the best of them is taken. The fourth, *priced*, is the tightest where a cluster is
busy for long; it has a file of its own, ``designer.simulator.priced_bound``.

**Notation.** A step of an engine lasts (``gateway.mockworker.profile``) ``host_step + max(weights, fixed + token *
T)`` plus, for each request in it, ``host_sequence`` and its attention: ``decode_context`` x context if it decodes, and
``prefill_context`` x (pairs of tokens) if it prefills. Every part is at least 0 and none shrinks with company. A
request of ``p`` prompt tokens, ``u`` of them certainly not in any prefix cache (those past its last shared chunk, and
at least one), makes ``o`` tokens; each is made in one step, no two in the same, the first at the end of the prefill.
Token ``k + 1`` is made by a decoding step over ``p + k`` tokens or, after a preemption, by prefilling at least one of
them anew (all, without a prefix cache): the cheaper of the two is what a token costs here.

**Alone** (``solo``). The step of a token lasts no less than the same step with this request alone in it, and the
prefill takes at least ``n = ceil(u / max_num_batched_tokens)`` steps, so ``max(n * weights, n * fixed + token * u)``;
pairs add up to ``(p^2 - (p - u)^2) / 2`` however the prompt is cut. So no request is answered faster than alone on an
empty, fastest worker, and the mean is no less than the mean of that. A request that is not answered at all scores the
penalty, so the smaller of the two bounds *every* policy.

**Pooled** (``pooled``), for policies that answer every request. Share the time of each step out among its requests: to
each its own tokens, sequence and attention, and of the rest ``r = host_step + mu * weights + (1 - mu) * fixed`` the
part ``share = lambda / max_num_seqs + (1 - lambda) * blocks / num_gpu_blocks``, where ``blocks`` are those it shares
with nobody. Shares of a step add up to at most 1, since neither seats nor blocks are given twice, and ``max(weights,
x) >= mu * weights + (1 - mu) * x`` for ``mu`` in 0 ... 1: what is shared out is no more than the step's time. So a
request takes at least some *work* ``w`` of worker time, and ``m`` workers hand out ``m`` seconds of it a second. One
machine ``m`` times as fast, free to split itself as it likes, can copy any such schedule; of its schedules the one
that serves the shortest remaining work first has the most requests ended by any moment (Schrage, 1968). So the k-th
end of a run comes no sooner than the k-th of that schedule, and, as above, no sooner than the k-th if each request
were alone: the larger of the two, for each k, bounds the sum of the ends.

**Busy** (``busy``), for the same policies. Let ``B`` be the mean time at which a request's work is handed out.
Whatever is handed out for token ``k`` is so before that token is there, and after it the steps of all later tokens
must pass: ``end >= B + (1 / w) * sum over k of (work of k) * (time of later tokens, alone)``. The sum of all ``B`` on
the fast machine is least when the request of least total ``w`` is always served first, as each unit of work of a
request then weighs ``1 / w`` (Goemans, 1997). Pooled forgets that work takes time even on an idle cluster, alone
forgets company; this remembers part of both.

``lambda`` and ``mu`` may be anything in 0 ... 1: a few are tried.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from designer.simulator.draws import Floats, Ints
from designer.simulator.fleet import WorkerPlan
from designer.simulator.priced_bound import priced_sum
from designer.simulator.scenario import Scenario
from designer.simulator.workload import RequestColumns
from gateway.mockworker.engine import PS_PER_SECOND
from gateway.mockworker.profile import WorkerProfile

_LAMBDAS = (0.0, 0.5, 1.0)
_MUS = (0.0, 0.5, 0.8, 0.9, 1.0)
_TRIED = 3
"""Of those, the ones with most work in all."""


@dataclass(frozen=True, slots=True)
class LowerBound:
    """Mean seconds over all requests of the run."""

    solo: float
    """Holds for every policy, whatever it sheds."""
    pooled: float
    busy: float
    priced: float
    """All three hold for policies that answer every request that some worker can hold."""

    @property
    def mean_response_time(self) -> float:
        """The best, for policies that answer every request."""
        return max(self.solo, self.pooled, self.busy, self.priced)


def lower_bound(scenario: Scenario, columns: RequestColumns, plans: Sequence[WorkerPlan]) -> LowerBound:
    """For these requests on these workers; see the top of this file.

    Where workers come and go by a policy's decisions, their number is not known beforehand, and where turns of a
    session follow answers, neither are arrivals: only ``solo`` is claimed.
    """
    profiles = list({id(plan.profile): plan.profile for plan in plans}.values())
    penalty = scenario.objective.penalty_seconds
    delays = scenario.network.dispatch_seconds + scenario.network.answer_seconds
    delays += min(profile.host_request_ps for profile in profiles) / PS_PER_SECOND
    costs = [_Costs(profile, columns) for profile in profiles]
    solo = np.min([cost.solo for cost in costs], axis=0) / PS_PER_SECOND + delays
    servable = np.isfinite(solo)
    refused = penalty * float((~servable).sum())
    arrivals = (columns.arrival_ps / PS_PER_SECOND)[servable]
    alone = np.sort(arrivals + solo[servable] - delays)
    count = len(columns)
    least = float(np.minimum(solo, penalty).sum()) / count
    if columns.turn_after is not None or any(workers.max_replicas is not None for workers in scenario.workers):
        return LowerBound(least, least, least, least)
    pooled, busy = _pooled_sums(costs, arrivals, alone, servable, len(plans))
    priced = priced_sum(
        arrivals,
        (solo - delays)[servable],
        lambda price, lam, mu: _least_priced(costs, price, lam, mu)[servable],
        len(plans),
    )
    served = delays * float(servable.sum()) + refused
    return LowerBound(least, (pooled + served) / count, (busy + served) / count, (priced + served) / count)


def _least_priced(costs: Sequence[_Costs], price: float, lam: float, mu: float) -> Floats:
    """Over all kinds of worker: all tokens of an answer are made on one of them."""
    return np.asarray(np.min([cost.priced(price, lam, mu) for cost in costs], axis=0) / PS_PER_SECOND)


def _pooled_sums(
    costs: Sequence[_Costs], released: Floats, alone: Floats, servable: NDArray[np.bool_], num_workers: int
) -> tuple[float, float]:
    """Sums over the servable requests of seconds from arrival to end: the best of pooled, and of busy.

    Args:
        alone: when each would end alone, in order.
    """
    shares = [_least_work(costs, lam, mu) for lam, mu in product(_LAMBDAS, _MUS)]
    kept = sorted(((w[servable], rest[servable]) for w, rest in shares), key=lambda share: -float(share[0].sum()))
    pooled = busy = 0.0
    for work, rest in kept[:_TRIED]:
        ends = np.maximum(alone, _shortest_remaining(released, work / num_workers))
        pooled = max(pooled, float(ends.sum() - released.sum()))
        busy = max(busy, _least_busy(released, work / num_workers) + float(rest.sum()))
    return pooled, busy


def _least_work(costs: Sequence[_Costs], lam: float, mu: float) -> tuple[Floats, Floats]:
    """Of each request the least work and the least time between its mean and the end, over all kinds of worker."""
    pairs = [cost.work(lam, mu) for cost in costs]
    return (
        np.min([work for work, _ in pairs], axis=0) / PS_PER_SECOND,
        np.min([rest for _, rest in pairs], axis=0) / PS_PER_SECOND,
    )


class _Costs:
    """What requests cost on one kind of worker; picoseconds, infinite for a request that it refuses.

    Tables are by the number of tokens in the context of a step; sums over a request's tokens are differences of
    their running sums.
    """

    def __init__(self, profile: WorkerProfile, columns: RequestColumns) -> None:
        self._profile = profile
        self._config = config = profile.engine
        self._prompt = columns.num_prompt_tokens
        limit = config.max_request_tokens
        self._fits = self._prompt < limit
        self._output = np.maximum(1, np.minimum(columns.num_output_tokens, limit - self._prompt))
        shared = _shared_tokens(columns) if config.enable_prefix_caching else np.zeros_like(self._prompt)
        self._new = np.maximum(1, self._prompt - shared)
        """Prompt tokens that no prefix cache can have."""
        self._shared_blocks = shared // config.block_size
        self._contexts = np.arange(int((self._prompt + self._output).max()) + 1, dtype=np.float64)
        self._token = _running(self._token_ps())
        self.solo: Floats = np.where(self._fits, self._prefill_ps() + self._sums(self._token), np.inf)

    def _sums(self, table: Floats) -> Floats:
        """Over the contexts of all tokens but the first: prompt + 1 … prompt + output - 1."""
        return np.asarray(table[self._prompt + self._output - 1] - table[self._prompt], dtype=np.float64)

    def _alone(self, num_tokens: Floats) -> Floats:
        """Prefilling so many tokens in a row, alone, without their attention."""
        p = self._profile
        steps = np.ceil(num_tokens / self._config.max_num_batched_tokens)
        floor = np.maximum(steps * p.weights_ps, steps * p.fixed_ps + p.token_ps * num_tokens)
        return np.asarray(steps * (p.host_step_ps + p.host_sequence_ps) + floor, dtype=np.float64)

    def _attention(self, before: Floats, after: Floats) -> Floats:
        """Of a prefill from ``before`` to ``after`` tokens; the engine rounds down once a step."""
        pairs = (after * after - before * before) / 2
        return np.maximum(0.0, self._profile.prefill_context_ps * pairs - (after - before))

    def _prefill_ps(self) -> Floats:
        prompt, new = self._prompt.astype(np.float64), self._new.astype(np.float64)
        return self._alone(new) + self._attention(prompt - new, prompt)

    def _token_ps(self) -> Floats:
        """Of a token after the first, by context: decoded, or prefilled after a preemption."""
        p, contexts = self._profile, self._contexts
        decoded = self._alone(np.ones_like(contexts)) + p.decode_ps + p.decode_context_ps * contexts
        again = np.ones_like(contexts) if self._config.enable_prefix_caching else contexts
        return np.minimum(decoded, self._alone(again) + self._attention(contexts - again, contexts))

    def work(self, lam: float, mu: float) -> tuple[Floats, Floats]:
        """Work of each request, and the time that must pass between its mean and the request's end."""
        p, config, contexts = self._profile, self._config, self._contexts
        rest_of_step = p.host_step_ps + mu * p.weights_ps + (1 - mu) * p.fixed_ps
        per_block = rest_of_step * (1 - lam) / config.num_gpu_blocks
        each = rest_of_step * lam / config.max_num_seqs + p.host_sequence_ps
        token = (1 - mu) * p.token_ps
        blocks = np.ceil(contexts / config.block_size)
        again = np.ones_like(contexts) if config.enable_prefix_caching else contexts
        prefilled = token * again + self._attention(contexts - again, contexts)
        own = each + per_block * blocks + np.minimum(token + p.decode_context_ps * contexts, prefilled)
        prompt, new = self._prompt.astype(np.float64), self._new.astype(np.float64)
        first = each + per_block * (blocks[self._prompt] - self._shared_blocks)
        first = first + token * new + self._attention(prompt - new, prompt)
        less = per_block * self._shared_blocks
        later = self._sums(_running(own)) - less * (self._output - 1)
        tail = self._sums(self._token)
        weighted = first * tail + self._weighted_tail(own) - less * self._weighted_tail(np.ones_like(own))
        total = first + later
        return (
            np.where(self._fits, total, np.inf),
            np.where(self._fits, weighted / np.maximum(total, 1.0), np.inf),
        )

    def priced(self, price: float, lam: float, mu: float) -> Floats:
        """``a`` of ``designer.simulator.priced_bound``: what each request and its share of worker time come to."""
        p, config, contexts = self._profile, self._config, self._contexts
        rest = p.host_step_ps + mu * p.weights_ps + (1 - mu) * p.fixed_ps
        token = (1 - mu) * p.token_ps
        again = np.ones_like(contexts) if config.enable_prefix_caching else contexts
        prefilled = token * again + self._attention(contexts - again, contexts)
        by_block = price * lam * rest / config.num_gpu_blocks
        step = rest + by_block * np.ceil(contexts / config.block_size)
        by_head, most = price * (1 - lam) * rest, config.max_num_seqs
        decoded = _least_shared(p.host_sequence_ps + token + p.decode_context_ps * contexts, by_head, price, most)
        bare = _least_shared(np.full_like(contexts, p.host_sequence_ps), by_head, price, most)
        each = step + np.minimum(decoded, bare + (1 + price) * prefilled)
        prompt, new = self._prompt.astype(np.float64), self._new.astype(np.float64)
        prefill = (1 + price) * (token * new + self._attention(prompt - new, prompt))
        total = (step + bare)[self._prompt] + prefill + self._sums(_running(each))
        total = total - by_block * self._shared_blocks * self._output
        return np.where(self._fits, total, np.inf)

    def _weighted_tail(self, table: Floats) -> Floats:
        """Over all tokens but the first: what the table says of it times the time of the tokens after it."""
        end = self._token[self._prompt + self._output - 1]
        return end * self._sums(_running(table)) - self._sums(_running(table * self._token))


def _least_shared(own: Floats, by_head: float, price: float, most: int) -> Floats:
    """Least of ``by_head / n + (n + price) * own`` over real ``n`` from 1 to ``most``."""
    n = np.clip(np.sqrt(by_head / np.maximum(own, 1e-9)), 1.0, float(most))
    return np.asarray(by_head / n + (n + price) * own)


def _running(table: Floats) -> Floats:
    """``result[n]`` is the sum of ``table[0] … table[n]``."""
    return np.asarray(np.cumsum(table), dtype=np.float64)


def _shared_tokens(columns: RequestColumns) -> Ints:
    if not columns.prefix_chunks:
        return np.zeros_like(columns.num_prompt_tokens)
    return np.array([chunks[-1][1] if chunks else 0 for chunks in columns.prefix_chunks], dtype=np.int64)


def _shortest_remaining(released: Floats, work: Floats) -> Floats:
    """When requests end, in order, on one machine that serves a unit of work a second, the least remaining first."""
    now = 0.0
    left: list[float] = []
    ends: list[float] = []
    for time, amount in zip([*released.tolist(), np.inf], [*work.tolist(), 0.0], strict=True):
        while left and now + left[0] <= time:
            now += heapq.heappop(left)
            ends.append(now)
        if left:
            left[0] -= time - now  # it stays the least
        now = time
        heapq.heappush(left, amount)
    return np.array(ends)


def _least_busy(released: Floats, work: Floats) -> float:
    """Least sum of times from release to the mean time of service, on the same machine: least total work first."""
    total, now = 0.0, 0.0
    waiting: list[list[float]] = []
    for time, amount in zip([*released.tolist(), np.inf], [*work.tolist(), 0.0], strict=True):
        while waiting and now < time:
            whole, left = waiting[0]
            served = min(left, time - now)
            total += (now + served / 2) * served / whole
            now += served
            if served < left:
                waiting[0][1] = left - served  # only the second place changes: the heap stays one
                break
            heapq.heappop(waiting)
        now = time
        if amount > 0:
            heapq.heappush(waiting, [amount, amount])
    return total - float(released.sum())
