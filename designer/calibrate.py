"""A worker profile fitted to what a real worker was seen to do.

Three kinds of probe, each of which is one or few steps of the engine:

- prefill: one prompt alone; its TTFT is the request's own cost and the prefill's steps;
- decode: equal requests side by side; the time from token to token while all of them decode is one step;
- mixed: a prompt that comes while one request decodes; that request's longest pause is the step they share.

The step's model is ``gateway.mockworker.profile``'s, in the form that such measurements can tell apart: the cost of a
decoding step as such and the host's cost of a step cannot be told from the floor and the fixed cost, and are left 0
and inside them.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from designer.simulator.draws import Floats
from designer.worker_probe import Ask, Prober, Stream
from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineConfig, EngineRequest
from gateway.mockworker.profile import WorkerProfile

Kind = Literal["prefill", "decode", "mixed"]
HOLD_OUT_EVERY = 4
"""One of so many points of each kind is not fitted."""
_SOLVER: dict[str, Any] = {"bounds": (0.0, np.inf), "f_scale": 0.1, "max_nfev": 100}
"""A start from which the fit goes anywhere good takes some 15 evaluations."""
_FEW = 48
"""Decoding steps that are timed, at least."""


class CalibrationError(Exception):
    """A calibration that cannot be done; one line."""


class Step(NamedTuple):
    """What is in one step of the engine."""

    num_tokens: int
    num_sequences: int
    decode_context: float
    """Summed over the decoding requests."""
    prefill_area: float
    """Pairs of a prefilled token and one it attends to."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement."""

    kind: Kind
    label: str
    steps: tuple[Step, ...]
    with_request: bool
    """The cost of a request as such is in it."""
    seconds: float
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    prompt_lengths: tuple[int, ...]
    concurrencies: tuple[int, ...]
    repeats: int = 3

    @classmethod
    def for_config(cls, config: EngineConfig, longest_prompt: int, most_concurrent: int, repeats: int = 3) -> Plan:
        """Doubling from 16 tokens and from one request, as far as the worker can take them."""
        longest = min(longest_prompt, config.max_request_tokens - _FEW - 16)
        if longest < 16:
            raise CalibrationError(f"the worker takes requests of {config.max_request_tokens} tokens; too few to fit")
        return cls(_doubling(16, longest), _doubling(1, min(most_concurrent, config.max_num_seqs)), repeats)


def _doubling(first: int, last: int) -> tuple[int, ...]:
    values = list(itertools.takewhile(lambda value: value < last, (first << n for n in itertools.count())))
    return (*values, last)


# -- measuring ----------------------------------------------------------------------------------------------------


def sweep(prober: Prober, plan: Plan, config: EngineConfig) -> list[Point]:
    """All points, one of ``HOLD_OUT_EVERY`` of each kind marked as held out."""
    prober.run([Ask(0.0, plan.prompt_lengths[0], 8)])
    points = [*_prefills(prober, plan, config), *_decodes(prober, plan, config), *_mixed(prober, plan, config)]
    return list(_with_held_out(points))


def _with_held_out(points: Sequence[Point]) -> Iterator[Point]:
    seen: dict[Kind, int] = {}
    for point in points:
        seen[point.kind] = seen.get(point.kind, 0) + 1
        yield replace(point, held_out=seen[point.kind] % HOLD_OUT_EVERY == 3)


def _prefills(prober: Prober, plan: Plan, config: EngineConfig) -> Iterator[Point]:
    for length in plan.prompt_lengths:
        seen = [prober.run([Ask(0.0, length, 1)])[0].ttft for _ in range(plan.repeats)]
        steps = tuple(_prefill_steps(length, config))
        yield Point("prefill", f"{length} tokens", steps, True, statistics.median(seen))


def _prefill_steps(length: int, config: EngineConfig) -> Iterator[Step]:
    size = min(config.max_num_batched_tokens, config.long_prefill_token_threshold or length)
    for done in range(0, length, size):
        chunk = min(size, length - done)
        yield Step(chunk, 1, 0.0, chunk * (done + chunk / 2))


def _decodes(prober: Prober, plan: Plan, config: EngineConfig) -> Iterator[Point]:
    lengths = (plan.prompt_lengths[0], plan.prompt_lengths[-1] // 4, plan.prompt_lengths[-1])
    for count, length in itertools.product(plan.concurrencies, sorted({max(1, length) for length in lengths})):
        tokens = _FEW + 2 * -(-count * length // config.max_num_batched_tokens)
        if _fits(count, length + tokens, config):
            seen = [_decode(prober.run([Ask(0.0, length, tokens)] * count)) for _ in range(plan.repeats)]
            seconds = statistics.median(s for s, _ in seen)
            context = statistics.median(c for _, c in seen)
            step = Step(count, count, context, 0.0)
            yield Point("decode", f"{count} x {length} tokens", (step,), False, seconds)


def _fits(count: int, tokens: int, config: EngineConfig) -> bool:
    """With a block to spare for each."""
    blocks = count * (-(-tokens // config.block_size) + 1)
    return tokens <= config.max_request_tokens and blocks <= config.num_gpu_blocks * (1 - config.watermark)


def _decode(streams: Sequence[Stream]) -> tuple[float, float]:
    """Seconds a step while all decode, and the context summed over them."""
    begin, end = max(s.times[0] for s in streams), min(s.times[-1] for s in streams)
    gaps, context = [], 0.0
    for stream in streams:
        inside = [(t, n) for t, n in zip(stream.times, stream.counts, strict=True) if begin <= t <= end]
        if len(inside) < 2 or inside[-1][0] <= inside[0][0]:
            raise CalibrationError(
                f"{len(streams)} requests of {stream.ask.num_prompt_tokens} tokens did not decode side by side; "
                "say --max-num-seqs and --max-num-batched-tokens as the worker has them, or give the server more CPU"
            )
        (first, least), (last, most) = inside[0], inside[-1]
        gaps.append((last - first) / (most - least))
        context += stream.ask.num_prompt_tokens + (least + most) / 2
    return statistics.median(gaps), context


def _mixed(prober: Prober, plan: Plan, config: EngineConfig) -> Iterator[Point]:
    if config.max_num_seqs < 2:
        return
    short = plan.prompt_lengths[0]
    pace, _ = _decode(prober.run([Ask(0.0, short, _FEW)]))
    for length in plan.prompt_lengths:
        if length + 1 > config.max_num_batched_tokens or length < 4 * short:
            continue
        asks = [Ask(0.0, short, _FEW), Ask(pace * _FEW / 3, length, 1)]
        seen = [_longest_pause(prober.run(asks)) for _ in range(plan.repeats)]
        step = Step(length + 1, 2, short + _FEW / 3, length * length / 2)
        yield Point("mixed", f"{length} tokens beside one", (step,), False, statistics.median(seen))


def _longest_pause(streams: Sequence[Stream]) -> float:
    return max(later - earlier for earlier, later in itertools.pairwise(streams[0].times))


# -- fitting ------------------------------------------------------------------------------------------------------


class Coefficients(NamedTuple):
    """Of the step's model, in units in which all are of the order of 1 to 100."""

    weights_ms: float
    fixed_ms: float
    token_us: float
    decode_context_ns: float
    prefill_context_ns: float
    host_sequence_us: float
    host_request_ms: float

    def seconds(self, point: Point) -> float:
        """What the model says of a point."""
        total = self.host_request_ms * 1e-3 if point.with_request else 0.0
        for step in point.steps:
            total += max(self.weights_ms * 1e-3, self.fixed_ms * 1e-3 + self.token_us * 1e-6 * step.num_tokens)
            total += self.host_sequence_us * 1e-6 * step.num_sequences
            total += self.decode_context_ns * 1e-9 * step.decode_context
            total += self.prefill_context_ns * 1e-9 * step.prefill_area
        return total


_PS = Coefficients(10**9, 10**9, 10**6, 10**3, 10**3, 10**6, 10**9)


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients and how well they say what was measured."""

    coefficients: Coefficients
    points: tuple[Point, ...]

    def error(self, point: Point) -> float:
        """Model over measurement, less one."""
        return self.coefficients.seconds(point) / point.seconds - 1.0

    def errors(self, *, held_out: bool) -> list[float]:
        return [abs(self.error(point)) for point in self.points if point.held_out == held_out]


def fit(points: Sequence[Point]) -> Fit:
    """Least squares of the relative errors (soft L1 beyond 10 %), no coefficient below 0.

    Raises:
        CalibrationError: there are fewer points than coefficients.
    """
    used = [point for point in points if not point.held_out]
    if len(used) < len(Coefficients._fields):
        raise CalibrationError(
            f"{len(used)} points cannot fix {len(Coefficients._fields)} coefficients; let it try longer prompts and "
            "more requests at once"
        )
    floor = min(point.seconds for point in used) * 1e3

    residuals = _residuals(used)
    solutions = [
        least_squares(residuals, start, loss="soft_l1", x_scale=_scale(floor), **_SOLVER)
        for start in _starts(used, floor)
    ]
    best = min(solutions, key=lambda solution: float(solution.cost))
    return Fit(Coefficients(*(float(value) for value in best.x)), tuple(points))


def _residuals(points: Sequence[Point]) -> Callable[[Floats], Floats]:
    """``Coefficients.seconds`` of all points at once, over what was measured, less one."""
    of_point = np.array([index for index, point in enumerate(points) for _ in point.steps])
    tokens, sequences, context, area = np.array([step for point in points for step in point.steps], dtype=np.float64).T
    requests = np.array([point.with_request for point in points], dtype=np.float64)
    measured = np.array([point.seconds for point in points])

    def residuals(x: Floats) -> Floats:
        model = Coefficients(*x)
        steps = np.maximum(model.weights_ms * 1e-3, model.fixed_ms * 1e-3 + model.token_us * 1e-6 * tokens)
        steps = steps + model.host_sequence_us * 1e-6 * sequences
        steps = steps + model.decode_context_ns * 1e-9 * context + model.prefill_context_ns * 1e-9 * area
        total = np.bincount(of_point, steps, len(points)) + model.host_request_ms * 1e-3 * requests
        return np.asarray(total / measured - 1.0)

    return residuals


def _scale(floor: float) -> list[float]:
    return [floor, floor, 10.0, 10.0, 1.0, 10.0, floor]


def _starts(points: Sequence[Point], floor: float) -> list[list[float]]:
    """The floor is about the quickest point; what a token costs, about the largest prefill over its tokens."""
    largest = max(points, key=lambda point: sum(step.num_tokens for step in point.steps))
    token = largest.seconds * 1e6 / sum(step.num_tokens for step in largest.steps)
    return [
        [floor * 0.9, floor * share, token * part, 1.0, 0.1, 1.0, floor * 0.1]
        for share, part in itertools.product((0.1, 0.5, 0.9), (0.3, 0.9))
    ]


def profile_of(fitted: Fit, config: EngineConfig, name: str, description: str) -> WorkerProfile:
    values: dict[str, Any] = {
        f"{field.rpartition('_')[0]}_ps": round(value * unit)
        for field, value, unit in zip(Coefficients._fields, fitted.coefficients, _PS, strict=True)
    }
    return WorkerProfile(name=name, description=description, engine=config, **values)


# -- a load that was not fitted -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """The same open-loop load on the worker and on the engine model with the fitted profile. Seconds."""

    num_requests: int
    rate: float
    measured: dict[str, float]
    """``mean_ttft``, ``p99_ttft``, ``mean_response_time``, ``p99_response_time``."""
    modelled: dict[str, float]

    def error(self, key: str) -> float:
        """Model over measurement, less one."""
        return self.modelled[key] / self.measured[key] - 1.0


def load_asks(fitted: Fit, plan: Plan, config: EngineConfig, seconds: float, seed: int) -> list[Ask]:
    """Poisson arrivals; log-uniform prompts, log-normal outputs: half the sweep's largest concurrency on average."""
    rng = np.random.default_rng(seed)
    least, most = plan.prompt_lengths[0], plan.prompt_lengths[-1]
    concurrent = max(1.0, plan.concurrencies[-1] / 2)
    mean_prompt = (most - least) / max(1e-9, np.log(most / least))
    step = Step(round(concurrent), round(concurrent), concurrent * mean_prompt, 0.0)
    decode = fitted.coefficients.seconds(Point("decode", "", (step,), False, 1.0))
    prefill = fitted.coefficients.seconds(
        Point("prefill", "", tuple(_prefill_steps(round(mean_prompt), config)), True, 1.0)
    )
    decode = max(decode, min(point.seconds for point in fitted.points))  # a poor fit must not make a flood
    mean_output = 40.0
    rate = min(concurrent / (mean_output * decode + prefill), 0.6 / (prefill + mean_output * decode / concurrent))
    arrivals = itertools.takewhile(lambda t: t < seconds, itertools.accumulate(_gaps(rng, rate)))
    return [
        Ask(
            float(arrival),
            round(float(np.exp(rng.uniform(np.log(least), np.log(most))))),
            int(np.clip(round(float(rng.lognormal(np.log(mean_output) - 0.32, 0.8))), 2, _FEW * 4)),
        )
        for arrival in arrivals
    ]


def _gaps(rng: Any, rate: float) -> Iterator[float]:
    while True:
        yield float(rng.exponential(1.0 / rate))


def check_load(prober: Prober, asks: Sequence[Ask], profile: WorkerProfile) -> LoadCheck:
    """Runs the load on the worker, then the same on the model, from the times at which it was in fact sent.

    Raises:
        CalibrationError: the load has no request.
    """
    if not asks:
        raise CalibrationError("the check's load has no request; give it more seconds")
    streams = prober.run(asks)
    begin = min(stream.sent for stream in streams)
    modelled = model_times(streams, begin, profile)
    return LoadCheck(
        num_requests=len(asks),
        rate=len(asks) / max(1e-9, max(stream.sent for stream in streams) - begin),
        measured=_summary([s.ttft for s in streams], [s.response_time for s in streams]),
        modelled=_summary(*modelled),
    )


def model_times(streams: Sequence[Stream], begin: float, profile: WorkerProfile) -> tuple[list[float], list[float]]:
    """TTFT and response time of each request, in seconds, by the engine model."""
    engine = Engine(profile.engine, profile)
    for index, stream in sorted(enumerate(streams), key=lambda pair: pair[1].sent):
        request = EngineRequest(str(index), stream.ask.num_prompt_tokens, stream.ask.num_output_tokens)
        engine.add(request, round((stream.sent - begin) * PS_PER_SECOND))
    ended = [stats for run in engine.advance(10**9 * PS_PER_SECOND) for stats in run.stats]
    ttfts = [(stats.first_token - stats.arrival) / PS_PER_SECOND for stats in ended]
    return ttfts, [(stats.finish - stats.arrival) / PS_PER_SECOND for stats in ended]


def _summary(ttfts: Sequence[float], response_times: Sequence[float]) -> dict[str, float]:
    told = {}
    for name, values in (("ttft", ttfts), ("response_time", response_times)):
        told[f"mean_{name}"] = float(np.mean(values))
        told[f"p99_{name}"] = float(np.percentile(values, 99))
    return told
