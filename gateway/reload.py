"""What of a changed configuration takes effect at once, and what waits for a restart.

All or nothing: everything that can fail is done before the first thing changes, and what then changes does so between
two events.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config import Config, PoolSection, WorkerSection
from gateway.config_file import validated
from gateway.config_values import Section

_RESTART: Mapping[str, frozenset[str]] = {
    "server": frozenset({"host", "port", "reuse_port", "watch_config"}),
    "api_keys": frozenset({"file", "env"}),
    "policy": frozenset({"seed", "state_dir", "stuck_seconds", "history", "watch_files"}),
    "decisions": frozenset({"keep", "dir", "max_file_bytes"}),
    "pool": frozenset({"prior_output_tokens", "prior_tokens_per_byte"}),
}
"""Keys of tables whose other keys are live."""
_LIVE_TABLES = frozenset(
    {"server", "api_keys", "limits", "timeouts", "queue", "failure", "scrape", "policy", "decisions", "log"}
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload comes to."""

    config: Config
    """In force afterwards: the new one, with the old values where a restart is needed."""
    changed: tuple[str, ...]
    """Keys that take effect, as ``limits.max_body_bytes``, ``pool.chat.policies``, ``worker.10.0.0.7:8000``."""
    needs_restart: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        return {"changed": list(self.changed), "needs_restart": list(self.needs_restart)}


def plan(old: Config, new: Config) -> Plan:
    """``new`` is valid by itself; what runs is ``old``. ConfigError: what of both would be in force is not valid."""
    changed: list[str] = []
    waits: list[str] = []
    tables: dict[str, Any] = {}
    for name in Config.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if name in _LIVE_TABLES:
            tables[name] = _merged(name, name, before, after, changed, waits)
        elif name == "pool":
            tables[name] = _pools(old, new, changed, waits)
        elif name == "worker":
            tables[name] = _workers(old, new, changed, waits)
        elif name != "base" and before != after:
            waits += _differing(name, before, after)
    config = old.model_copy(update=tables)
    validated(Config, config.model_dump(), "the configuration with what waits for a restart")
    return Plan(config, tuple(sorted(changed)), tuple(sorted(waits)))


def _merged(table: str, shown: str, before: Any, after: Any, changed: list[str], waits: list[str]) -> Any:
    """``after``, with the values of ``before`` where only a restart can change them."""
    fixed = _RESTART.get(table, frozenset())
    kept = {}
    for key in type(before).model_fields:
        if getattr(before, key) == getattr(after, key):
            continue
        if key in fixed:
            waits.append(f"{shown}.{key}")
            kept[key] = getattr(before, key)
        else:
            changed.append(f"{shown}.{key}")
    return after.model_copy(update=kept)


def _pools(old: Config, new: Config, changed: list[str], waits: list[str]) -> tuple[PoolSection, ...]:
    """The pools that run; others come and go with the process."""
    named = {pool.name: pool for pool in new.pool}
    running = {pool.name for pool in old.pool}
    waits += [f"pool.{name}" for name in running ^ named.keys()]
    placed = {worker.worker_id for worker in new.workers if worker.pool in running}
    return tuple(
        _merged("pool", f"pool.{pool.name}", pool, named[pool.name], changed, waits)
        if pool.name in named
        else _without(pool, placed)
        for pool in old.pool
    )


def _without(pool: PoolSection, placed: Container[str]) -> PoolSection:
    """``pool``, which only a restart removes, without the workers that the file has moved to others."""
    kept = tuple(url for url in pool.workers if WorkerSection(url=url).worker_id not in placed)
    return pool.model_copy(update={"workers": kept})


def _workers(old: Config, new: Config, changed: list[str], waits: list[str]) -> tuple[WorkerSection, ...]:
    pools = {pool.name for pool in old.pool}
    kept = tuple(worker for worker in _listed(new) if worker.pool in pools)
    waits += [f"worker.{worker.worker_id}" for worker in _listed(new) if worker.pool not in pools]
    before = {worker.worker_id: worker for worker in _listed(old)}
    now = {worker.worker_id: worker for worker in kept}
    changed += [f"worker.{name}" for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    return kept


def _listed(config: Config) -> list[WorkerSection]:
    """``[[worker]]``, each with its pool: without one, the file's only."""
    return [worker.model_copy(update={"pool": worker.pool or config.pool[0].name}) for worker in config.worker]


def _differing(name: str, before: Any, after: Any) -> list[str]:
    if not isinstance(before, Section) or type(before) is not type(after):
        return [name]
    return [f"{name}.{key}" for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
