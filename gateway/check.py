"""``gateway check``: everything that can be wrong before serving, found without serving."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from gateway.api_keys import load_keys
from gateway.config import Config, PoolSection
from gateway.core.dispatcher import Dispatcher
from gateway.discovery.file import read_workers
from gateway.errors import ConfigError, PolicyRefusedError
from gateway.policy_loading import check, copied, load_copies, parse
from gateway.policy_versions import slots_of
from gateway.settings import admin_token, pool_configs
from gateway.tls import ServerTls, worker_context


async def check_all(config: Config) -> dict[str, Any]:
    """What would run. ConfigError or PolicyRefusedError says what is wrong first."""
    admin_token(config)
    check_pools(config)
    load_keys(config.api_keys, config.path)
    if config.tls is not None:
        ServerTls(config.tls, config.path)
    worker_context(config.worker_tls, config.path)
    num_workers = len(config.workers)
    if config.discovery.file:
        names = [pool.name for pool in config.pool]
        num_workers += len(read_workers(config.path(config.discovery.file.path), names))
    pools = [await _check_pool(config, pool) for pool in config.pool]
    return {"ok": True, "workers": num_workers, "pools": pools}


def check_pools(config: Config) -> None:
    """Whether the pools' models are told apart; the dispatcher knows the rule."""
    try:
        Dispatcher(pool_configs(config))
    except ValueError as error:
        raise ConfigError(f"pool.models: {error}") from None


async def _check_pool(config: Config, pool: PoolSection) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ranvier-check-") as folder:
        try:
            specs, originals = copied(parse("+".join(pool.policies), config.base), Path(folder))
            await check(specs, config.policy, originals)
            policy_set = load_copies(specs, config.policy.seed, 1, originals)
        except PolicyRefusedError as error:
            raise PolicyRefusedError(f"pool {pool.name}: {error}") from None
    return {"pool": pool.name, "slots": slots_of(policy_set)}
