"""The lower bound that knows that company slows a request down, and that a worker's memory is shared.

Notation and costs are those of ``designer.simulator.bounds``. Take a stretch of time ``W`` and a price ``pi >= 0`` of
worker time in it. Of the requests that arrive in ``W``, let those that end in it be *inner*.

A step that makes a token of ``n`` inner requests lasts at least ``r + (the own costs of their tokens)``, with ``r`` the
rest of a step. It delays each of the ``n``, so together they spend ``n`` times that in it; and at the price it costs
``pi`` times that. Share this sum out: to a token of own cost ``o`` comes ``n * (r / n + o)`` of the delay, and of the
price ``pi * o`` and of ``pi * r`` the part ``(1 - lambda) / n + lambda * blocks / num_gpu_blocks``. These parts add up
to at most 1, as neither heads nor blocks are counted twice. Whatever ``n`` is, a token comes to no less than

    ``min over n of r * (1 + pi * (1 - lambda) / n + pi * lambda * blocks / num_gpu_blocks) + (n + pi) * o``,

over all real ``n`` from 1 to ``max_num_seqs``. A prefill, the first or one after a preemption, may be cut into steps
that make no token: it adds ``(1 + pi)`` times its own cost, since it delays at least its own request. Let ``a`` be the
sum over the tokens of a request. All steps with an inner request lie within ``W``, so their price is at most ``pi *
workers * |W|``. Hence the inner requests take, together, at least the sum of their ``a`` less that. A request that
arrives in ``W`` and is not inner takes at least from its arrival to the end of ``W``, and every one at least what it
takes alone (one whose ``a`` is less than that is counted so, and not as inner). Which are inner is the policy's choice:
so all that arrive in ``W`` take at least ``sum of min(max(a, alone), max(end of W - arrival, alone)) - pi * workers *
|W|``. Stretches that do not overlap may be added up.

With ``pi = 0`` it is the bound of each request alone. A high price is worth paying where a stretch is so full that work
must be done in large batches (``lambda`` = 0) or that memory decides how large they are (``lambda`` = 1). Stretches are
found by halving, as long as two halves give more than the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from designer.simulator.draws import Floats

PRICES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 25.0)
LAMBDAS = (0.0, 0.5, 1.0)
MUS = (0.8, 0.95, 0.98, 1.0)
_MAX_HALVINGS = 7


def priced_sum(
    arrivals: Floats,
    alone: Floats,
    priced: Callable[[float, float, float], Floats],
    num_workers: int,
) -> float:
    """Least sum of seconds that the requests take, for policies that answer them all.

    Args:
        arrivals: seconds, in order.
        alone: seconds that each takes alone.
        priced: ``a`` of each in seconds, by price, ``lambda`` and ``mu``.
    """
    if not len(arrivals):
        return 0.0
    grid = [(price, priced(price, lam, mu)) for price, lam, mu in product(PRICES, LAMBDAS, MUS)]
    return _best(arrivals, alone, grid, num_workers, float(arrivals[0]), float(arrivals[-1] + alone.max()), 0)


def _best(
    arrivals: Floats,
    alone: Floats,
    grid: Sequence[tuple[float, Floats]],
    num_workers: int,
    begin: float,
    end: float,
    depth: int,
) -> float:
    """Of the requests given, which are those that arrive from ``begin`` on and before ``end``."""
    least = float(alone.sum())
    until_end = np.maximum(end - arrivals, alone)
    cost = num_workers * (end - begin)
    whole = max(
        (float(np.minimum(np.maximum(a, alone), until_end).sum()) - price * cost for price, a in grid), default=least
    )
    least = max(least, whole)
    if depth == _MAX_HALVINGS or len(arrivals) < 2:
        return least
    middle = (begin + end) / 2
    cut = int(np.searchsorted(arrivals, middle))
    halves = (slice(0, cut), begin, middle), (slice(cut, None), middle, end)
    parts = sum(
        _best(arrivals[rows], alone[rows], [(price, a[rows]) for price, a in grid], num_workers, low, high, depth + 1)
        for rows, low, high in halves
    )
    return max(least, parts)
