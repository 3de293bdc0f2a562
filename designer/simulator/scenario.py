"""Scenarios: what is simulated, as strict TOML. A key that is not known is an error, never ignored.

Lengths are tokens, times are seconds, rates are per second. Every model is frozen: a scenario is a value.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.mockworker.profile import load_profile

_SUFFIX = ".toml"
TRACES_VARIABLE = "RANVIER_TRACES"
"""Environment variable with the folder of downloaded traces; a trace's path may begin with it."""
DEFAULT_TRACES = "traces"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ScenarioError(ValueError):
    """A scenario that cannot be used; one line that names the file, the dotted key and the fix."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arrivals(_Table):
    """A renewal process: independent gaps of mean ``1 / rate``; the first request comes after the first gap."""

    process: Literal["poisson", "lognormal", "gamma"] = "poisson"
    rate: Positive
    sigma: Positive | None = None
    """Of the logarithm of a gap; needed by ``lognormal`` and by nothing else."""
    cv: Positive | None = None
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


class Lengths(_Table):
    """Log-normal token counts: drawn, multiplied if an outlier, rounded, then clipped to ``min`` … ``max``."""

    median: Positive
    sigma: NonNegative = 0.0
    min: Count = 1
    max: Count = 1_000_000
    outlier_fraction: Fraction = 0.0
    outlier_factor: Positive = 10.0

    @model_validator(mode="after")
    def _min_below_max(self) -> Lengths:
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return self


class MaxTokens(_Table):
    """What clients write as ``max_tokens``: drawn independently of the true output, which it then cuts, as in vLLM."""

    values: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
    unset_fraction: Fraction = 0.0
    """Share of requests that leave it out."""


class PromptBytes(_Table):
    """How many bytes of text the gateway sees for a prompt: ``tokens x per_token x lognormal(0, sigma)``."""

    per_token: Positive = 4.0
    sigma: NonNegative = 0.0
    exact: bool = False
    """The gateway is told the exact token count too, as for prompts sent as token ids."""


class Prefixes(_Table):
    """Shared beginnings, such as system prompts: added in front of the prompts that ``prompt_tokens`` describes."""

    groups: Count
    fraction: Fraction = 1.0
    """Share of requests that begin with one."""
    tokens: Lengths
    """Length of a group's prefix, drawn once for each group."""
    zipf: NonNegative = 0.0
    """Popularity of group k is proportional to ``k ** -zipf``; 0 is uniform."""


class Sessions(_Table):
    """Every arrival begins a session: the prompt of a turn is the one before it, its answer, and new text."""

    turns: Lengths
    """How many; of a session that grows past ``max_prompt_tokens``, fewer."""
    think_seconds: Positive
    """Median of the time between an answer and the next turn ..."""
    think_sigma: NonNegative = 0.0
    """... which is log-normal."""
    max_prompt_tokens: Count
    """No turn with a longer prompt is sent."""


class Tenant(_Table):
    name: Annotated[str, Field(min_length=1)]
    weight: Positive = 1.0
    """Share of the requests, relative to the other tenants."""
    priority: int = 0
    """Higher is served first."""
    ttft_slo_seconds: Positive | None = None
    from_seconds: NonNegative = 0.0
    to_seconds: Positive | None = None
    """Outside these times the tenant's requests, drawn as all others, are left out. Needs ``duration_seconds``."""


class SyntheticWorkload(_Table):
    """Requests drawn from distributions; exactly one of ``duration_seconds`` and ``num_requests``."""

    kind: Literal["synthetic"]
    duration_seconds: Positive | None = None
    num_requests: Count | None = None
    arrivals: Arrivals
    prompt_tokens: Lengths
    output_tokens: Lengths
    max_tokens: MaxTokens | None = None
    bytes: PromptBytes = PromptBytes()
    prefixes: Prefixes | None = None
    sessions: Sessions | None = None
    """None: every request stands alone."""
    tenants: Annotated[tuple[Tenant, ...], Field(strict=False, min_length=1)] = (Tenant(name="default"),)
    stream_fraction: Fraction = 1.0
    """Share of requests that stream; the gateway never sees the first token of the others."""

    @model_validator(mode="after")
    def _one_length(self) -> SyntheticWorkload:
        if (self.duration_seconds is None) == (self.num_requests is None):
            raise ValueError("give either duration_seconds or num_requests")
        if len({tenant.name for tenant in self.tenants}) < len(self.tenants):
            raise ValueError("two tenants have the same name")
        if self.num_requests is not None and any(tenant.from_seconds or tenant.to_seconds for tenant in self.tenants):
            raise ValueError("from_seconds and to_seconds of a tenant go with duration_seconds")
        return self


class TraceWorkload(_Table):
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


class Workers(_Table):
    """``count`` workers of one kind."""

    profile: Annotated[str, Field(min_length=1)]
    """Name of a worker profile, or a path of one, relative to the scenario file."""
    count: Count = 1
    variant: Annotated[str, Field(min_length=1)] = "default"
    time_scale: Positive = 1.0
    """Multiplies every coefficient of the profile's step time."""
    engine: dict[str, bool | int | float | str] = {}
    """Engine configuration that differs from the profile's, by the names of ``EngineConfig``."""
    min_replicas: Count = 1
    max_replicas: Count | None = None
    """Bounds of autoscaling; None: the variant is not scaled."""
    cold_start_seconds: NonNegative = 60.0
    """From the decision to a started replica's first request."""

    @model_validator(mode="after")
    def _count_within_bounds(self) -> Workers:
        if self.max_replicas is not None and not self.min_replicas <= self.count <= self.max_replicas:
            raise ValueError("count is not between min_replicas and max_replicas")
        return self


class Network(_Table):
    """One-way delays between gateway and worker."""

    dispatch_seconds: NonNegative = 0.0005
    answer_seconds: NonNegative = 0.0005


class Scrape(_Table):
    interval_seconds: Positive = 1.0
    delay_seconds: NonNegative = 0.002
    """From the moment a worker answers to the moment the dispatcher hears of it."""


class Queue(_Table):
    """Limits of the gateway's held queue, as in the gateway's own configuration."""

    max_requests: Count = 10_000
    max_prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """0: unbounded."""
    max_seconds: Positive = 60.0
    max_attempts: Count = 3
    tick_seconds: Positive = 1.0
    """While something is held, the dispatcher hears the time this often at least."""


class Clients(_Table):
    timeout_seconds: Positive | None = None
    """A client leaves this long after it sent its request; None: never."""
    deadline_seconds: Positive | None = None
    """Sent along with the request: held past it, it is answered with an error."""


class Autoscaling(_Table):
    """When the autoscaling policy is asked and how long a wish must last, as in the gateway's own configuration."""

    interval_seconds: Positive = 15.0
    up_delay_seconds: NonNegative = 30.0
    down_delay_seconds: NonNegative = 300.0
    start_timeout_seconds: Positive = 900.0


class Failure(_Table):
    """A worker stops working, and comes back empty; exactly one of ``at_seconds`` and ``mean_seconds_between``."""

    at_seconds: NonNegative | None = None
    mean_seconds_between: Positive | None = None
    """Exponential times between failures, until the last arrival."""
    worker: Annotated[int, Field(ge=0)] | None = None
    """By its place among the workers; None: drawn from those that are there."""
    kind: Literal["crash", "hang"] = "crash"
    """``crash``: connections break at once and are refused while it is down. ``hang``: it takes requests and answers
    nothing until it is restarted; then its connections break."""
    down_seconds: Positive
    detection_seconds: NonNegative = 5.0
    """Until the gateway's health checks see that it is gone, and that it is back."""

    @model_validator(mode="after")
    def _one_time(self) -> Failure:
        if (self.at_seconds is None) == (self.mean_seconds_between is None):
            raise ValueError("give either at_seconds or mean_seconds_between")
        return self


class Objective(_Table):
    """What an evaluation compares; lower is better."""

    metric: Literal["mean_response_time", "p99_response_time", "mean_ttft", "p99_ttft"] = "mean_response_time"
    penalty_seconds: Positive = 600.0
    """Scored for every time of a request that got no full answer, unless it had waited longer still."""
    ttft_slo_seconds: Positive | None = None
    """For goodput: a request that has no promise of its own must see its first token within this."""
    tpot_slo_seconds: Positive | None = None
    """For goodput: seconds per output token after the first."""


class Scenario(_Table):
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    workload: Workload
    workers: Annotated[tuple[Workers, ...], Field(strict=False, min_length=1)]
    network: Network = Network()
    scrape: Scrape = Scrape()
    queue: Queue = Queue()
    clients: Clients = Clients()
    autoscaling: Autoscaling = Autoscaling()
    failures: Annotated[tuple[Failure, ...], Field(strict=False)] = ()
    objective: Objective = Objective()

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        for number, workers in enumerate(self.workers):
            others = [other.variant for other in self.workers[:number] + self.workers[number + 1 :]]
            if workers.max_replicas is not None and workers.variant in others:
                raise ValueError(f"variant {workers.variant!r} is scaled and stands in two tables of workers")
        for failure in self.failures:
            if failure.worker is not None and failure.worker >= sum(workers.count for workers in self.workers):
                raise ValueError(f"failures name worker {failure.worker}, and there are fewer; the first is 0")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that can change a result: a trace counts by its bytes, a profile by its numbers."""
        content = self.model_dump(mode="json", exclude={"name", "description"})
        if isinstance(self.workload, TraceWorkload):
            content["workload"].pop("obtain")
            content["workload"]["path"] = hashlib.sha256(self.workload.file.read_bytes()).hexdigest()
        for workers in content["workers"]:
            profile = load_profile(workers["profile"])
            workers["profile"] = repr(replace(profile, name="", description="", notes=None))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def scenario_names() -> tuple[str, ...]:
    """The scenarios that come with the package."""
    entries = resources.files("designer").joinpath("scenarios").iterdir()
    return tuple(sorted(entry.name.removesuffix(_SUFFIX) for entry in entries if entry.name.endswith(_SUFFIX)))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """The built-in scenario of this name, or the one in this file (anything with a ``/`` or ending in ``.toml``).

    Raises:
        ScenarioError: one line that names the file, the dotted key and the fix.
    """
    path = _find(str(name_or_path))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}") from None
    return parse_scenario(table, origin=path)


def parse_scenario(table: dict[str, Any], origin: Path) -> Scenario:
    """A scenario from parsed TOML; ``origin`` names it in errors, and relative paths start from its folder."""
    try:
        scenario = Scenario.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{origin}: {_first_problem(error)}") from None
    return _with_absolute_paths(scenario, origin.parent)


def _with_absolute_paths(scenario: Scenario, folder: Path) -> Scenario:
    changes: dict[str, Any] = {}
    if isinstance(scenario.workload, TraceWorkload):
        path = str((folder / _with_traces_folder(scenario.workload.path)).resolve())
        changes["workload"] = scenario.workload.model_copy(update={"path": path})
    changes["workers"] = tuple(
        workers.model_copy(update={"profile": str((folder / workers.profile).resolve())})
        if _is_path(workers.profile)
        else workers
        for workers in scenario.workers
    )
    return scenario.model_copy(update=changes)


def _with_traces_folder(path: str) -> Path:
    prefix = f"${TRACES_VARIABLE}/"
    if not path.startswith(prefix):
        return Path(path)
    return Path(os.environ.get(TRACES_VARIABLE) or DEFAULT_TRACES).absolute() / path.removeprefix(prefix)


def _is_path(text: str) -> bool:
    return "/" in text or text.endswith(_SUFFIX)


def _find(name: str) -> Path:
    if _is_path(name):
        return Path(name)
    if name not in scenario_names():
        raise ScenarioError(
            f"no scenario named {name!r}: one of {', '.join(scenario_names())}, or a path of a .toml file"
        )
    return Path(str(resources.files("designer").joinpath("scenarios", name + _SUFFIX)))


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    text = {"extra_forbidden": "unknown key", "missing": "missing"}.get(first["type"], first["msg"])
    problem = f"{_dotted(first['loc'])}: {text.removeprefix('Value error, ')}"
    more = error.error_count() - 1
    return f"{problem} (and {more} more)" if more else problem


def _dotted(location: tuple[int | str, ...]) -> str:
    """``workload.arrivals.rate``, ``workers[1].count``; the tag that chose between kinds is no key."""
    if location[:1] == ("workload",) and location[1:2] in (("synthetic",), ("trace",)):
        location = location[:1] + location[2:]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "scenario"
