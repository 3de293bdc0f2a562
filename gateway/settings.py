"""From the configuration to what each part is made with. The only place that knows both sides."""

from __future__ import annotations

from gateway.config import Config, PoolSection, ReplicasSection
from gateway.core.pool import PoolConfig
from gateway.errors import ConfigError
from gateway.http.settings import HttpSettings


def http_settings(config: Config) -> HttpSettings:
    limits, timeouts = config.limits, config.timeouts
    return HttpSettings(
        max_header_bytes=limits.max_header_bytes,
        max_body_bytes=limits.max_body_bytes,
        max_buffered_body_bytes=limits.max_buffered_body_bytes,
        max_connections=limits.max_connections,
        min_upload_bytes_per_second=limits.min_upload_bytes_per_second,
        passthrough_attempts=limits.max_attempts,
        administrative_paths=frozenset(limits.administrative_paths),
        reuse_port=config.server.reuse_port,
        forwarded=config.server.forwarded,
        forward_authorization=config.api_keys.forward_authorization,
        header_timeout_seconds=timeouts.header_seconds,
        body_timeout_seconds=timeouts.body_seconds,
        idle_timeout_seconds=timeouts.idle_seconds,
        write_timeout_seconds=timeouts.write_seconds,
        connect_timeout_seconds=timeouts.connect_seconds,
        first_byte_timeout_seconds=timeouts.first_byte_seconds,
        inter_token_timeout_seconds=timeouts.inter_token_seconds,
        total_timeout_seconds=timeouts.total_seconds,
        retry_timeouts=config.failure.retry_timeouts,
        priority_range=(limits.min_priority, limits.max_priority),
    )


def pool_configs(config: Config) -> list[PoolConfig]:
    """Without policies: those are loaded by an event, like every later set."""
    return [_pool_config(config, pool) for pool in config.pool]


def _pool_config(config: Config, pool: PoolSection) -> PoolConfig:
    queue, failure = config.queue_of(pool), config.failure
    return PoolConfig(
        name=pool.name,
        models=pool.models,
        max_queue_requests=queue.max_requests,
        max_queue_prompt_tokens=queue.max_prompt_tokens,
        max_queue_requests_per_tenant=queue.max_requests_per_tenant,
        max_queue_seconds=queue.max_seconds,
        max_attempts=config.limits.max_attempts,
        back_pressure_seconds=failure.back_pressure_seconds,
        rest_after_failures=failure.rest_after,
        max_rest_seconds=failure.max_rest_seconds,
        max_resting_share=failure.max_resting_share,
        retry_share=failure.retry_share,
        retry_floor=failure.retry_floor,
        prior_output_tokens=pool.prior_output_tokens,
        prior_tokens_per_byte=pool.prior_tokens_per_byte,
        replicas={name: (variant.min, variant.max) for name, variant in pool.replicas.items()},
        scaling_interval_seconds=pool.scaling_interval_seconds,
        scale_up_delay_seconds=pool.scale_up_delay_seconds,
        scale_down_delay_seconds=pool.scale_down_delay_seconds,
        start_timeout_seconds=max((v.start_seconds for v in pool.replicas.values()), default=900.0),
        prefix_index_chunks=pool.prefix_index_chunks,
        guard_failures=config.policy.retire_failures,
        guard_window=config.policy.retire_window,
    )


def replica_templates(config: Config) -> dict[tuple[str, str], ReplicasSection]:
    return {(pool.name, name): variant for pool in config.pool for name, variant in pool.replicas.items()}


def admin_token(config: Config) -> str | None:
    """ConfigError when the token's file cannot be read or is empty."""
    if config.admin.token is not None:
        return config.admin.token.get_secret_value()
    if config.admin.token_file is None:
        return None
    path = config.path(config.admin.token_file)
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"admin.token_file: {path}: cannot be read: {error}") from None
    if not token:
        raise ConfigError(f"admin.token_file: {path}: is empty; write the token into it")
    return token
