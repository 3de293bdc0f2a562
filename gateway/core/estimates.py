"""Everything the dispatcher learns from what it saw: prompt sizes, output lengths, latencies, the arrival rate.

Only + - * / on floats, so that a log replays to the same bits on every machine. Tables are bounded: what was
used least recently is forgotten, and learned again from the next wider mean.
"""

from __future__ import annotations

from collections import OrderedDict

RATE_SECONDS = 60.0
"""Time constant of the arrival rate."""
_MAX_MODELS = 256
_MAX_TENANTS = 4096
_OUTPUT_HORIZON = 100
_LATENCY_HORIZON = 10
_PRIOR_BYTES = 4096.0
_RATIO_DECAY = 0.99
_RATIO_BOUNDS = (0.01, 4.0)
"""Tokens per byte outside this come from something other than text, an image for example."""


class RunningMean:
    """The plain mean of the first ``horizon`` values, from then on exponentially weighted by 1/horizon."""

    __slots__ = ("count", "horizon", "value")

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.count = 0
        self.value = 0.0
        """0.0 before the first."""

    def add(self, value: float) -> None:
        count = self.count
        if count < self.horizon:
            self.count = count = count + 1
        self.value += (value - self.value) / count


class Latency:
    """Seconds to first token and per output token after it, of one worker."""

    __slots__ = ("tpot", "ttft")

    def __init__(self) -> None:
        self.ttft = RunningMean(_LATENCY_HORIZON)
        self.tpot = RunningMean(_LATENCY_HORIZON)


def decay(elapsed: float, time_constant: float) -> float:
    """exp(-elapsed / time_constant) to within a few per cent of it, without libm: (1 + x/16)^-16."""
    factor = 1.0 / (1.0 + elapsed / (16.0 * time_constant))
    factor *= factor
    factor *= factor
    factor *= factor
    return factor * factor


class ArrivalRate:
    """Arrivals per second, exponentially weighted over ``RATE_SECONDS``, unbiased from the second arrival on."""

    __slots__ = ("_last", "_num", "_weight")

    def __init__(self) -> None:
        self._num = 0.0
        """Arrivals after the first, each decayed since it came."""
        self._weight = 0.0
        """Seconds since the first arrival, each decayed since it passed."""
        self._last: float | None = None

    def add(self, now: float) -> None:
        if self._last is not None:
            self._pass(self._last, now)
            self._num += 1.0
        self._last = now

    def value(self, now: float) -> float:
        """0.0 before the second arrival; falls while none comes."""
        if self._last is None:
            return 0.0
        self._pass(self._last, now)
        return self._num / self._weight if self._weight > 0.0 else 0.0

    def _pass(self, last: float, now: float) -> None:
        elapsed = now - last
        if elapsed > 0.0:
            kept = decay(elapsed, RATE_SECONDS)
            self._num *= kept
            self._weight = self._weight * kept + RATE_SECONDS * (1.0 - kept)
            self._last = now


class _Ratio:
    """Tokens per byte of a model, the older evidence weighing less."""

    __slots__ = ("num_bytes", "num_tokens")

    def __init__(self, prior: float) -> None:
        self.num_bytes = _PRIOR_BYTES
        self.num_tokens = _PRIOR_BYTES * prior

    def add(self, num_bytes: int, num_tokens: int) -> None:
        low, high = _RATIO_BOUNDS
        if low * num_bytes <= num_tokens <= high * num_bytes:
            self.num_bytes = self.num_bytes * _RATIO_DECAY + num_bytes
            self.num_tokens = self.num_tokens * _RATIO_DECAY + num_tokens


class Estimates:
    """What one pool has learned of its requests."""

    def __init__(self, prior_output_tokens: float, prior_tokens_per_byte: float) -> None:
        self._prior_tokens_per_byte = prior_tokens_per_byte
        self._ratios: OrderedDict[str, _Ratio] = OrderedDict()
        self._outputs: OrderedDict[tuple[str, str | None], RunningMean] = OrderedDict()
        """By model and tenant, and by model alone (tenant None)."""
        self._prior_output_tokens = prior_output_tokens
        self.arrivals = ArrivalRate()
        self.num_arrived_requests = 0
        self.num_arrived_prompt_tokens = 0
        self.prompt_tokens = RunningMean(_OUTPUT_HORIZON)
        self.output_tokens = RunningMean(_OUTPUT_HORIZON)
        self.latency = Latency()
        """Over all workers: stands in for one that has shown no first token yet."""

    @property
    def mean_output_tokens(self) -> float:
        return self.output_tokens.value if self.output_tokens.count else self._prior_output_tokens

    def num_prompt_tokens(self, model: str, num_bytes: int) -> int:
        """Tokens expected of a prompt of ``num_bytes``; at least 1."""
        ratio = self._ratios.get(model)
        if ratio is None:
            return round(num_bytes * self._prior_tokens_per_byte) or 1
        return round(num_bytes * ratio.num_tokens / ratio.num_bytes) or 1

    def expected_output_tokens(self, model: str, tenant: str, max_tokens: int | None) -> float:
        """Mean of the tenant's finished requests, else of the model's, else the prior; at most ``max_tokens``."""
        outputs = self._outputs
        mean = outputs.get((model, tenant)) or outputs.get((model, None))
        expected = self._prior_output_tokens if mean is None else mean.value
        return expected if max_tokens is None or expected < max_tokens else float(max_tokens)

    def arrived(self, now: float, num_prompt_tokens: int) -> None:
        """A request came, of so many prompt tokens."""
        self.arrivals.add(now)
        self.prompt_tokens.add(num_prompt_tokens)
        self.num_arrived_requests += 1
        self.num_arrived_prompt_tokens += num_prompt_tokens

    def prompt_counted(self, model: str, num_bytes: int, num_tokens: int) -> None:
        """A worker told how many tokens a prompt of ``num_bytes`` had."""
        ratio = self._ratios.get(model)
        if ratio is None:
            ratio = self._ratios[model] = _Ratio(self._prior_tokens_per_byte)
            if len(self._ratios) > _MAX_MODELS:
                self._ratios.popitem(last=False)
        else:
            self._ratios.move_to_end(model)
        ratio.add(num_bytes, num_tokens)

    def completed(self, model: str, tenant: str, num_output_tokens: int) -> None:
        """A request was answered in full."""
        self.output_tokens.add(num_output_tokens)
        self._mean((model, None)).add(num_output_tokens)
        self._mean((model, tenant)).add(num_output_tokens)

    def _mean(self, key: tuple[str, str | None]) -> RunningMean:
        mean = self._outputs.get(key)
        if mean is None:
            mean = self._outputs[key] = RunningMean(_OUTPUT_HORIZON)
            if len(self._outputs) > _MAX_TENANTS:
                self._outputs.popitem(last=False)
        else:
            self._outputs.move_to_end(key)
        return mean

    def figures(self) -> list[object]:
        """All of it in a stable order, for the state digest."""
        return [
            [(model, ratio.num_bytes, ratio.num_tokens) for model, ratio in self._ratios.items()],
            [(*key, mean.count, mean.value) for key, mean in self._outputs.items()],
            (self.prompt_tokens.value, self.output_tokens.value, self.latency.ttft.value, self.latency.tpot.value),
            (self.arrivals._num, self.arrivals._weight, self.num_arrived_requests, self.num_arrived_prompt_tokens),
        ]
