"""Synthetic traces: when requests come, how long they are, and what they share. The seed decides everything.

Every property is drawn from a stream of its own (``seed/arrivals``, ``seed/outputs``, …), so changing one leaves the
others as they were. ``max_tokens`` in particular does not depend on the output length, as a client cannot know it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from loadgen.trace import BLOCK_TOKENS, TraceRequest

Arrivals = Literal["poisson", "gamma", "lognormal", "constant", "diurnal"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "gamma", "lognormal", "constant", "diurnal")


class SynthError(ValueError):
    """A parameter out of its range: one line that names it."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal, rounded and clipped to 1 … ``maximum``."""

    median: float
    sigma: float = 0.0
    """Of the logarithm; 0: always the median."""
    maximum: int = 131_072

    def draw(self, rng: Random) -> int:
        length = math.exp(rng.gauss(math.log(self.median), self.sigma))
        return max(1, min(self.maximum, round(length)))


@dataclass(frozen=True, slots=True)
class Workload:
    """What a synthetic trace is drawn from."""

    rate: float
    """Requests a second, on average."""
    duration: float
    """Seconds."""
    inputs: Lengths = field(default_factory=lambda: Lengths(512, 1.0))
    outputs: Lengths = field(default_factory=lambda: Lengths(128, 0.9, 4096))
    arrivals: Arrivals = "poisson"
    cv: float = 2.0
    """Coefficient of variation of the gaps, for ``gamma`` and ``lognormal``; 1 is as bursty as Poisson."""
    period: float = 3600.0
    """Seconds from peak to peak, for ``diurnal``."""
    swing: float = 0.8
    """How far ``diurnal`` goes from the mean rate, 0 to 1."""
    num_prefixes: int = 0
    """Shared prefixes, the n-th as popular as 1/n; 0: none."""
    prefix_tokens: int = 1024
    """Length of each, added to the drawn input; whole blocks of 512."""
    prefix_share: float = 1.0
    """Fraction of requests that begin with one."""
    max_tokens: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Drawn uniformly; empty: not sent."""
    seed: int = 0


def synthesize(workload: Workload) -> Iterator[TraceRequest]:
    """The requests of a workload, in order of time.

    Raises:
        SynthError: a parameter is out of its range.
    """
    _check(workload)
    return _requests(workload)


def _requests(workload: Workload) -> Iterator[TraceRequest]:
    inputs, outputs, bounds, prefixes = (
        Random(f"{workload.seed}/{stream}") for stream in ("inputs", "outputs", "max_tokens", "prefixes")
    )
    weights = [1.0 / rank for rank in range(1, workload.num_prefixes + 1)]
    next_id = workload.num_prefixes * (workload.prefix_tokens // BLOCK_TOKENS)
    for seconds in _times(workload, Random(f"{workload.seed}/arrivals")):
        length, shared = workload.inputs.draw(inputs), _prefix(workload, prefixes, weights)
        num_blocks = -(-length // BLOCK_TOKENS)
        own = tuple(range(next_id, next_id + num_blocks)) if weights else ()
        next_id += len(own)
        yield TraceRequest(
            timestamp=round(seconds * 1000.0, 3),
            input_length=length + len(shared) * BLOCK_TOKENS,
            output_length=workload.outputs.draw(outputs),
            hash_ids=shared + own if weights else None,
            max_tokens=bounds.choice(workload.max_tokens) if workload.max_tokens else None,
        )


def _prefix(workload: Workload, rng: Random, weights: list[float]) -> tuple[int, ...]:
    if not weights or rng.random() >= workload.prefix_share:
        return ()
    (which,) = rng.choices(range(len(weights)), weights)
    size = workload.prefix_tokens // BLOCK_TOKENS
    return tuple(range(which * size, (which + 1) * size))


def _times(workload: Workload, rng: Random) -> Iterator[float]:
    if workload.arrivals == "constant":
        yield from (number / workload.rate for number in range(math.ceil(workload.rate * workload.duration)))
        return
    now = _gap(workload, rng)
    while now < workload.duration:
        if workload.arrivals != "diurnal" or rng.random() < _relative_rate(workload, now):
            yield now
        now += _gap(workload, rng)


def _gap(workload: Workload, rng: Random) -> float:
    mean, squared = 1.0 / workload.rate, workload.cv**2
    match workload.arrivals:
        case "gamma":
            return rng.gammavariate(1.0 / squared, mean * squared)
        case "lognormal":
            sigma = math.sqrt(math.log1p(squared))
            return rng.lognormvariate(math.log(mean) - sigma**2 / 2.0, sigma)
        case "diurnal":
            return rng.expovariate(workload.rate * (1.0 + workload.swing))
    return rng.expovariate(workload.rate)


def _relative_rate(workload: Workload, now: float) -> float:
    """The rate at ``now`` as a fraction of the peak (thinning: Lewis and Shedler, 1979)."""
    wave = 1.0 + workload.swing * math.sin(2.0 * math.pi * now / workload.period)
    return wave / (1.0 + workload.swing)


def _check(workload: Workload) -> None:
    for name, good, wanted in (
        ("rate", 0 < workload.rate < math.inf, "above 0"),
        ("duration", 0 < workload.duration < math.inf, "above 0"),
        ("input", workload.inputs.median >= 1 and workload.inputs.sigma >= 0, "a median of 1 and sigma of 0 or more"),
        ("output", workload.outputs.median >= 1 and workload.outputs.sigma >= 0, "a median of 1, sigma of 0 or more"),
        ("arrivals", workload.arrivals in ARRIVALS, f"one of {', '.join(ARRIVALS)}"),
        ("cv", 0 < workload.cv <= 100, "above 0 and at most 100"),
        ("period", workload.period > 0, "above 0"),
        ("swing", 0 <= workload.swing <= 1, "between 0 and 1"),
        ("prefixes", workload.num_prefixes >= 0, "at least 0"),
        ("prefix-tokens", workload.prefix_tokens >= BLOCK_TOKENS, f"at least {BLOCK_TOKENS}, one block"),
        ("prefix-share", 0 <= workload.prefix_share <= 1, "between 0 and 1"),
        ("max-tokens", all(bound >= 1 for bound in workload.max_tokens), "at least 1 each"),
    ):
        if not good:
            raise SynthError(f"{name}: must be {wanted}")
