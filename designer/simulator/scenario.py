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

from pydantic import Field, ValidationError, model_validator

from designer.simulator.counterfactual import Counterfactual
from designer.simulator.table_errors import first_problem
from designer.simulator.workload_tables import (
    Arrivals,
    Count,
    Lengths,
    MaxTokens,
    Model,
    NonNegative,
    Positive,
    Prefixes,
    PromptBytes,
    ScenarioError,
    Sessions,
    SyntheticWorkload,
    Table,
    Tenant,
    TraceWorkload,
    Workload,
)
from gateway.mockworker.profile import load_profile
from policies.loader import PolicyLoadError, builtin_names, parse_specs
from policies.source_file import read_source

__all__ = [
    "Arrivals",
    "Autoscaling",
    "Clients",
    "Counterfactual",
    "Failure",
    "Lengths",
    "MaxTokens",
    "Model",
    "Network",
    "Objective",
    "Prefixes",
    "PromptBytes",
    "Queue",
    "Scenario",
    "ScenarioError",
    "ScenarioPool",
    "Scrape",
    "Sessions",
    "SyntheticWorkload",
    "Tenant",
    "TraceWorkload",
    "Workers",
    "load_scenario",
    "parse_scenario",
    "scenario_names",
]

DEFAULT_POOL = "default"
"""The one pool of a scenario that declares none."""
_SUFFIX = ".toml"
_MOST_BYTES = 10_000_000
TRACES_VARIABLE = "RANVIER_TRACES"
"""Environment variable with the folder of downloaded traces; a trace's path may begin with it."""
DEFAULT_TRACES = "traces"


class ScenarioPool(Table):
    """Some of the workers, behind a queue of their own."""

    name: Annotated[str, Field(min_length=1)]
    models: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What requests that come here name; empty, in one pool at most: all that no other pool names."""
    policies: str = ""
    """Built-in policies that run here whatever is evaluated; empty: those that are evaluated."""

    @model_validator(mode="after")
    def _built_in_policies(self) -> ScenarioPool:
        try:
            specs = parse_specs(self.policies) if self.policies else ()
        except PolicyLoadError as error:
            raise ValueError(f"policies: {error}") from None
        known = builtin_names()
        for spec in specs:
            if spec.source not in known and spec.source not in {name.rpartition("/")[2] for name in known}:
                raise ValueError(f"policies: {spec.source!r} is no built-in policy (known: {', '.join(known)})")
        return self


class Workers(Table):
    """``count`` workers of one kind."""

    profile: Annotated[str, Field(min_length=1)]
    """Name of a worker profile, or a path of one, relative to the scenario file."""
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    variant: Annotated[str, Field(min_length=1)] = "default"
    pool: str = ""
    """Where they are, of a scenario that declares pools."""
    time_scale: Positive = 1.0
    """Multiplies every coefficient of the profile's step time."""
    engine: dict[str, bool | int | float | str] = Field(default_factory=dict)
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


class Network(Table):
    """One-way delays between gateway and worker."""

    dispatch_seconds: NonNegative = 0.0005
    answer_seconds: NonNegative = 0.0005


class Scrape(Table):
    interval_seconds: Positive = 1.0
    delay_seconds: NonNegative = 0.002
    """From the moment a worker answers to the moment the dispatcher hears of it."""


class Queue(Table):
    """Limits of the gateway's held queue, as in the gateway's own configuration."""

    max_requests: Count = 10_000
    max_prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """0: unbounded."""
    max_seconds: Positive = 60.0
    max_attempts: Count = 3
    tick_seconds: Positive = 1.0
    """While something is held, the dispatcher hears the time this often at least."""


class Clients(Table):
    timeout_seconds: Positive | None = None
    """A client leaves this long after it sent its request; None: never."""
    deadline_seconds: Positive | None = None
    """Sent along with the request: held past it, it is answered with an error."""


class Autoscaling(Table):
    """When the autoscaling policy is asked and how long a wish must last, as in the gateway's own configuration."""

    interval_seconds: Positive = 15.0
    up_delay_seconds: NonNegative = 30.0
    down_delay_seconds: NonNegative = 300.0
    start_timeout_seconds: Positive = 900.0


class Failure(Table):
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


TimeMetric = Literal["mean_response_time", "p99_response_time", "mean_ttft", "p99_ttft"]
Metric = Literal[TimeMetric, "seconds_per_good_request", "worker_seconds", "weighted"]
"""``seconds_per_good_request``: the inverse of goodput. ``worker_seconds``: the cost, times the factor by which more
requests miss their promises than may. ``weighted``: a sum of the others, by ``weights``."""


class Objective(Table):
    """What an evaluation compares; lower is better."""

    metric: Metric = "mean_response_time"
    weights: dict[TimeMetric | Literal["seconds_per_good_request", "worker_seconds"], Positive] = Field(
        default_factory=dict
    )
    """Of ``weighted``: what each metric counts in the sum."""
    slo_share: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Of ``worker_seconds``: this share of the requests must meet their promises."""
    penalty_seconds: Positive = 600.0
    """Scored for every time of a request that got no full answer, unless it had waited longer still."""
    ttft_slo_seconds: Positive | None = None
    """For goodput: a request that has no promise of its own must see its first token within this."""
    tpot_slo_seconds: Positive | None = None
    """For goodput: seconds per output token after the first."""

    @model_validator(mode="after")
    def _weighted_by_something(self) -> Objective:
        if (self.metric == "weighted") != bool(self.weights):
            raise ValueError("weights and metric = 'weighted' go together")
        return self


class Scenario(Table):
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    workload: Workload
    pools: Annotated[tuple[ScenarioPool, ...], Field(strict=False)] = ()
    """None: one pool of all workers, for any model, with the policies that are evaluated."""
    workers: Annotated[tuple[Workers, ...], Field(strict=False, min_length=1)]
    network: Network = Network()
    scrape: Scrape = Scrape()
    queue: Queue = Queue()
    clients: Clients = Clients()
    autoscaling: Autoscaling = Autoscaling()
    failures: Annotated[tuple[Failure, ...], Field(strict=False)] = ()
    objective: Objective = Objective()
    counterfactual: Counterfactual = Counterfactual()

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

    @model_validator(mode="after")
    def _pools_fit(self) -> Scenario:
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError("two pools have the same name")
        for number, workers in enumerate(self.workers):
            if workers.pool not in (names or [""]):
                known = f"name one of {', '.join(names)}" if names else "leave it out, or declare [[pools]]"
                raise ValueError(f"workers[{number}].pool is {workers.pool!r}: {known}")
        for name in names:
            if name not in {workers.pool for workers in self.workers}:
                raise ValueError(f"pool {name!r} has no workers")
        self._models_have_pools()
        return self

    def _models_have_pools(self) -> None:
        served = [model for pool in self.pools for model in pool.models]
        if len(set(served)) < len(served):
            raise ValueError("a model is named by two pools")
        takers = [pool.name for pool in self.pools if not pool.models]
        if len(takers) > 1:
            raise ValueError(f"pools {', '.join(takers)} name no models; at most one may")
        if not self.pools or takers or not isinstance(self.workload, SyntheticWorkload):
            return
        if not self.workload.models and len(self.pools) > 1:
            raise ValueError("workload.models is missing: every pool names its models, so requests must name one")
        for model in self.workload.models:
            if model.name not in served:
                raise ValueError(f"workload.models: no pool names {model.name!r}")

    @property
    def pool_names(self) -> tuple[str, ...]:
        """At least one."""
        return tuple(pool.name for pool in self.pools) or (DEFAULT_POOL,)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that can change a result: a trace counts by its bytes, a profile by its numbers."""
        content = self.model_dump(mode="json", exclude={"name", "description"})
        if self.counterfactual == Counterfactual():
            del content["counterfactual"]
        if not self.pools:  # what a scenario of one pool could say before there were several
            del content["pools"]
            for workers in content["workers"]:
                del workers["pool"]
        if isinstance(self.workload, SyntheticWorkload) and not self.workload.models:
            del content["workload"]["models"]
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
        table = tomllib.loads(read_source(path, _MOST_BYTES).decode("utf-8"))
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
        raise ScenarioError(f"{origin}: {first_problem(error, Scenario)}") from None
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
