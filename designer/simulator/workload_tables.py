"""The workload of a scenario, as strict TOML tables: requests that are drawn, or those of a trace.

Lengths are tokens, times are seconds, rates are per second. Every model is frozen: a scenario is a value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_REQUESTS = 10_000_000
"""Of one simulation."""
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
MOST_SIGMA = 5.0
Sigma = Annotated[float, Field(ge=0, le=MOST_SIGMA, allow_inf_nan=False)]
"""Of the logarithm: at 5 the mean is 268,000 times the median, and no sample shows it."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10**12)]


LONGEST_SECONDS = 30 * 86_400.0
"""Of arrivals: picoseconds of three months no longer fit in 64 bits."""


class ScenarioError(ValueError):
    """A scenario that cannot be used; one line that names the file, the dotted key and the fix."""


class Table(BaseModel):
    """A key that is not known is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arrivals(Table):
    """A renewal process: independent gaps of mean ``1 / rate``; the first request comes after the first gap."""

    process: Literal["poisson", "lognormal", "gamma"] = "poisson"
    rate: Positive
    sigma: Annotated[Sigma, Field(gt=0)] | None = None
    """Of the logarithm of a gap; needed by ``lognormal`` and by nothing else."""
    cv: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    """Standard deviation of a gap over its mean; needed by ``gamma`` and by nothing else."""
    day_seconds: Positive | None = None
    """Length of a day, which begins at its quietest; None: the rate is the same all the time."""
    day_amplitude: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The rate goes as ``rate x (1 - day_amplitude x cos(2 pi t / day_seconds))``."""

    @model_validator(mode="after")
    def _a_day_has_a_length(self) -> Arrivals:
        if (self.day_seconds is not None) != (self.day_amplitude > 0):
            raise ValueError("day_seconds and day_amplitude go together")
        return self

    @model_validator(mode="after")
    def _shape_matches_process(self) -> Arrivals:
        for name, process in (("sigma", "lognormal"), ("cv", "gamma")):
            if (getattr(self, name) is not None) != (self.process == process):
                raise ValueError(f'{name} goes with process = "{process}", which needs it')
        return self


class Lengths(Table):
    """Log-normal token counts: drawn, multiplied if an outlier, rounded, then clipped to ``min`` … ``max``."""

    median: Positive
    sigma: Sigma = 0.0
    min: Count = 1
    max: Count = 1_000_000
    outlier_fraction: Fraction = 0.0
    outlier_factor: Positive = 10.0

    @model_validator(mode="after")
    def _min_below_max(self) -> Lengths:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class MaxTokens(Table):
    """What clients write as ``max_tokens``: drawn independently of the true output, which it then cuts, as in vLLM."""

    values: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
    unset_fraction: Fraction = 0.0
    """Share of requests that leave it out."""


class PromptBytes(Table):
    """How many bytes of text the gateway sees for a prompt: ``tokens x per_token x lognormal(0, sigma)``."""

    per_token: Positive = 4.0
    sigma: Sigma = 0.0
    exact: bool = False
    """The gateway is told the exact token count too, as for prompts sent as token ids."""


class Prefixes(Table):
    """Shared beginnings, such as system prompts: added in front of the prompts that ``prompt_tokens`` describes."""

    groups: Count
    fraction: Fraction = 1.0
    """Share of requests that begin with one."""
    tokens: Lengths
    """Length of a group's prefix, drawn once for each group."""
    zipf: NonNegative = 0.0
    """Popularity of group k is proportional to ``k ** -zipf``; 0 is uniform."""


class Sessions(Table):
    """Every arrival begins a session: the prompt of a turn is the one before it, its answer, and new text."""

    turns: Lengths
    """How many; of a session that grows past ``max_prompt_tokens``, fewer."""
    think_seconds: Positive
    """Median of the time between an answer and the next turn ..."""
    think_sigma: Sigma = 0.0
    """... which is log-normal."""
    max_prompt_tokens: Count
    """No turn with a longer prompt is sent."""


class Tenant(Table):
    name: Annotated[str, Field(min_length=1)]
    weight: Positive = 1.0
    """Share of the requests, relative to the other tenants."""
    priority: int = 0
    """Higher is served first."""
    ttft_slo_seconds: Positive | None = None
    from_seconds: NonNegative = 0.0
    to_seconds: Positive | None = None
    """Outside these times the tenant's requests, drawn as all others, are left out. Needs ``duration_seconds``."""


class Model(Table):
    """What clients write as ``model``."""

    name: Annotated[str, Field(min_length=1)]
    weight: Positive = 1.0
    """Share of the requests (of sessions: each keeps its own), relative to the other models."""


class SyntheticWorkload(Table):
    """Requests drawn from distributions; exactly one of ``duration_seconds`` and ``num_requests``."""

    kind: Literal["synthetic"]
    duration_seconds: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)] | None = None
    num_requests: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] | None = None
    arrivals: Arrivals
    prompt_tokens: Lengths
    output_tokens: Lengths
    max_tokens: MaxTokens | None = None
    bytes: PromptBytes = PromptBytes()
    prefixes: Prefixes | None = None
    sessions: Sessions | None = None
    """None: every request stands alone."""
    tenants: Annotated[tuple[Tenant, ...], Field(strict=False, min_length=1)] = (Tenant(name="default"),)
    models: Annotated[tuple[Model, ...], Field(strict=False)] = ()
    """None: requests name no model."""
    stream_fraction: Fraction = 1.0
    """Share of requests that stream; the gateway never sees the first token of the others."""

    @model_validator(mode="after")
    def _one_length(self) -> SyntheticWorkload:
        if (self.duration_seconds is None) == (self.num_requests is None):
            raise ValueError("give either duration_seconds or num_requests")
        if len({tenant.name for tenant in self.tenants}) < len(self.tenants):
            raise ValueError("two tenants have the same name")
        if len({model.name for model in self.models}) < len(self.models):
            raise ValueError("two models have the same name")
        if self.num_requests is not None and any(tenant.from_seconds or tenant.to_seconds for tenant in self.tenants):
            raise ValueError("from_seconds and to_seconds of a tenant go with duration_seconds")
        return self


class TraceWorkload(Table):
    """Requests of a JSONL trace. Seeds differ by which requests are kept and by the noise of the byte counts."""

    kind: Literal["trace"]
    path: Annotated[str, Field(min_length=1)]
    """Relative to the scenario file, or ``$RANVIER_TRACES/…``: in the folder that this variable names, by default
    ``traces`` in the working directory."""
    obtain: str = ""
    """Where the trace comes from and how to make the file; told when it is missing."""
    time_scale: Positive = 1.0
    """Multiplies arrival times: 0.5 doubles the load."""
    start_seconds: NonNegative = 0.0
    first_seconds: Positive | None = None
    """Length of the slice that is used, before ``time_scale``; the whole rest by default."""
    keep_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Every request is kept with this probability, drawn anew for each seed."""
    bytes: PromptBytes = PromptBytes()
    max_tokens: MaxTokens | None = None
    """For records that have none of their own."""

    @property
    def file(self) -> Path:
        """The trace.

        Raises:
            ScenarioError: there is no such file; says where to get it, if the scenario does.
        """
        path = Path(self.path)
        if not path.is_file():
            raise ScenarioError(f"{path}: no such trace" + (f"; {self.obtain}" if self.obtain else ""))
        return path


Workload = Annotated[SyntheticWorkload | TraceWorkload, Field(discriminator="kind")]
