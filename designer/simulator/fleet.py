"""The workers of a scenario: profiles with the scenario's changes, and the engines made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from designer.simulator.counterfactual import changed_profile
from designer.simulator.scenario import DEFAULT_POOL, Scenario, ScenarioError, Workers
from gateway.core.events import WorkerMetrics
from gateway.mockworker.engine import BatchPolicy, Engine, EngineConfig
from gateway.mockworker.profile import WorkerProfile, load_profile

_KINDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker, before anything runs on it."""

    worker_id: str
    variant: str
    profile: WorkerProfile
    pool: str = DEFAULT_POOL

    @property
    def config(self) -> EngineConfig:
        return self.profile.engine

    def engine(self, batch_policy: BatchPolicy | None) -> Engine:
        return Engine(self.config, self.profile, batch_policy, report_tokens=False)

    def sizes(self) -> WorkerMetrics:
        """What a gateway knows of a worker from its configuration."""
        return WorkerMetrics(
            kv_capacity_tokens=self.config.num_gpu_blocks * self.config.block_size,
            block_size=self.config.block_size,
            max_num_seqs=self.config.max_num_seqs,
        )


def plan_workers(scenario: Scenario) -> tuple[WorkerPlan, ...]:
    """Every worker, named by its profile and its place.

    Raises:
        ScenarioError: an engine override is unknown, of the wrong type or out of range.
        ProfileError: a profile cannot be used.
    """
    plans: list[WorkerPlan] = []
    for group, workers in enumerate(scenario.workers):
        profile = changed_profile(_profile(workers, group), scenario.counterfactual)
        pool = workers.pool or DEFAULT_POOL
        for _ in range(workers.count):
            plans.append(WorkerPlan(f"{profile.name}-{len(plans)}", workers.variant, profile, pool))
    return tuple(plans)


def _profile(workers: Workers, group: int) -> WorkerProfile:
    profile = load_profile(workers.profile)
    where = f"workers[{group}].engine"
    for name, value in workers.engine.items():
        _check_override(name, value, profile.engine, where)
    try:
        engine = replace(profile.engine, **dict[str, Any](workers.engine))
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None
    scaled = {f.name: round(getattr(profile, f.name) * workers.time_scale) for f in fields(profile) if _is_time(f.name)}
    return replace(profile, engine=engine, **scaled)


def _is_time(field_name: str) -> bool:
    return field_name.endswith("_ps")


def _check_override(name: str, value: object, config: EngineConfig, where: str) -> None:
    known = [f.name for f in fields(config)]
    if name not in known:
        raise ScenarioError(f"{where}.{name}: unknown key (known: {', '.join(known)})")
    wanted = type(getattr(config, name))
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise ScenarioError(f"{where}.{name}: must be {_KINDS[wanted]}, not {value!r}")
