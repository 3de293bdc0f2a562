"""The configuration: one frozen tree, strict about unknown keys, and nothing read from anywhere else.

``docs/configuration.md`` is the reference for operators. Keys with a unit carry it in their name.
``gateway/config_file.py`` reads it.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from gateway.config_values import ApiKeyVariable, Count, Name, Port, Positive, Seconds, Section, WorkerUrl


class ServerSection(Section):
    """The data port."""

    host: str = "0.0.0.0"  # noqa: S104 a gateway exists to be reached; the admin port is loopback
    port: Port = 8000
    reuse_port: bool = False
    """SO_REUSEPORT: the next process may listen before this one stops."""
    watch_config: bool = True
    """Read this file again when it changes."""
    forwarded: Literal["pass", "replace", "append"] = "pass"
    """X-Forwarded-…: as they came; the gateway's own instead; or those of a trusted proxy, and its address."""


class TlsSection(Section):
    """HTTPS on the data port."""

    cert: str
    key: str
    client_ca: str | None = None
    """Clients need a certificate of this authority."""


class WorkerTlsSection(Section):
    """Towards workers whose URL is https; their certificates are always verified."""

    ca: str | None = None
    """Instead of the system's authorities."""
    cert: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> WorkerTlsSection:
        if self.key is not None and self.cert is None:
            raise ValueError("key is given without cert; add the certificate it belongs to")
        return self


class AdminSection(Section):
    """The control plane's own port."""

    host: str = "127.0.0.1"
    port: Port = 9000
    token: SecretStr | None = None
    token_file: str | None = None

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class LimitsSection(Section):
    """What one client may cost."""

    max_body_bytes: Positive = 64 * 1024 * 1024
    max_buffered_body_bytes: Positive = 2 * 1024 * 1024 * 1024
    """All request bodies held at once."""
    max_header_bytes: Positive = 65_536
    max_connections: Positive = 20_000
    min_upload_bytes_per_second: Count = 100
    """Of a body, on average, once it has been coming for ``body_seconds``; 0: no bound."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Dispatches of one request that may fail."""
    min_priority: Annotated[int, Field(ge=-1_000_000, le=0)] = -10
    max_priority: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """What a client without an API key may ask for, higher first."""
    administrative_paths: tuple[str, ...] = ()
    """Worker paths that change a worker, which clients of the data port may use all the same; ``*``: all."""


class ApiKeysSection(Section):
    """Who may use the data port. Off unless one of the two is given."""

    file: str | None = None
    env: str | None = None
    """An environment variable that holds the text of such a file."""
    forward_authorization: bool = False

    @model_validator(mode="after")
    def _one(self) -> ApiKeysSection:
        if self.file is not None and self.env is not None:
            raise ValueError("file and env are both given; keep one")
        return self


class TimeoutsSection(Section):
    """No wait is for ever."""

    header_seconds: Seconds = 30.0
    body_seconds: Seconds = 60.0
    """Between two reads of a request's body."""
    idle_seconds: Seconds = 75.0
    """A client's connection without a request."""
    write_seconds: Seconds = 120.0
    """A client that does not read its answer."""
    connect_seconds: Seconds = 5.0
    """To a worker."""
    first_byte_seconds: Seconds = 600.0
    """From the request sent to the answer's first byte; all of the generation when it is not streamed."""
    inter_token_seconds: Seconds = 300.0
    """Between two reads of an answer that has begun."""
    total_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """From a request's end to its answer's; 0: no bound but the others."""
    lame_duck_seconds: Annotated[float, Field(ge=0, le=3_600)] = 0.0
    """After SIGTERM, not ready but still accepting: for balancers that are slow to notice."""
    drain_seconds: Seconds = 30.0
    """For what is in flight after that; then it is cut."""


class QueueSection(Section):
    """What a pool may hold."""

    max_requests: Positive = 10_000
    max_prompt_tokens: Count = 0
    """0: no bound."""
    max_requests_per_tenant: Count = 0
    """0: no bound but the whole queue's."""
    max_seconds: Seconds = 60.0


class FailureSection(Section):
    """What failures of workers lead to, beside the next attempt."""

    rest_after: Positive = 3
    """Failed requests in a row after which a worker is left alone for a second, twice as long each further time …"""
    max_rest_seconds: Seconds = 30.0
    """… up to this."""
    max_resting_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    back_pressure_seconds: Seconds = 1.0
    """For a worker that said it is full."""
    retry_share: Annotated[float, Field(ge=0, le=10)] = 0.2
    retry_floor: Count = 100
    retry_timeouts: bool = False
    """Whether what a worker did not answer in time is tried at another."""


class ReplicasSection(Section):
    """Bounds of one variant, and how a replica of it is started here."""

    min: Count = 0
    max: Count = 0
    command: tuple[str, ...] = ()
    """Arguments with ``{port}`` and ``{replica}``; empty: replicas are only asked for, in log and metrics."""
    start_seconds: Seconds = 600.0

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasSection:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; raise max or lower min")
        if self.command and not any("{port}" in word for word in self.command):
            raise ValueError("command needs {port} in one of its arguments: the port the replica must listen on")
        return self


class PoolSection(Section):
    """The workers of one base model, their queue and their policies."""

    name: Name = "default"
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ("least_loaded",)
    workers: tuple[WorkerUrl, ...] = ()
    queue: QueueSection | None = None
    prior_output_tokens: Annotated[float, Field(gt=0)] = 256.0
    prior_tokens_per_byte: Annotated[float, Field(gt=0, le=4)] = 0.25
    scaling_interval_seconds: Seconds = 15.0
    scale_up_delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    scale_down_delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    prefix_index_chunks: Count = 200_000
    replicas: dict[str, ReplicasSection] = Field(default_factory=dict)


class WorkerSection(Section):
    """One vLLM server. Sizes given here stand until the worker reports its own."""

    url: WorkerUrl
    id: Name | None = None
    pool: Name | None = None
    variant: Name = "default"
    models: tuple[str, ...] = ()
    kv_capacity_tokens: Count | None = None
    block_size: Positive | None = None
    max_num_seqs: Positive | None = None
    api_key_env: ApiKeyVariable | None = None
    """The variable that holds the worker's own key (vLLM's ``--api-key``)."""

    @property
    def api_key(self) -> str | None:
        return os.environ[self.api_key_env] if self.api_key_env else None

    @property
    def worker_id(self) -> str:
        """``host:port`` unless an id is given."""
        return self.id or urlsplit(self.url).netloc


class FileDiscoverySection(Section):
    path: str


class DiscoverySection(Section):
    file: FileDiscoverySection | None = None


class ScrapeSection(Section):
    """How often workers are looked at, and when one is taken out of rotation."""

    interval_seconds: Seconds = 1.0
    timeout_seconds: Seconds = 2.0
    health_interval_seconds: Seconds = 2.0
    health_timeout_seconds: Seconds = 5.0
    models_interval_seconds: Seconds = 30.0
    stalled_seconds: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """A worker that says it runs requests while no counter of its engine moves is unhealthy after so long; 0: never."""
    unhealthy_after: Positive = 3
    healthy_after: Positive = 1


class PolicySection(Section):
    """How policies are checked, watched and limited."""

    seed: Count = 0
    budget_seconds: Seconds = 0.005
    """A call longer than this is an overrun: its answer is not used."""
    kill_seconds: Seconds = 0.05
    """CPU seconds after which a call is interrupted."""
    stuck_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """The process ends when its event loop stood still so long; 0: never."""
    check_seconds: Seconds = 30.0
    """For the check of a policy set, in its own process."""
    check_memory_bytes: Positive = 1024 * 1024 * 1024
    state_dir: str | None = None
    """Keeps the sets that run, for the next process."""
    history: Annotated[int, Field(ge=2, le=1_000)] = 16
    """Sets kept for rollback, by pool."""
    retire_failures: Positive = 5
    """A set is retired at so many failed calls …"""
    retire_window: Positive = 100
    """… among so many."""
    watch_files: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> PolicySection:
        if self.kill_seconds < self.budget_seconds:
            raise ValueError("kill_seconds must not be under budget_seconds")
        return self


class EventLogSection(Section):
    """Every input of the dispatcher, to be replayed."""

    enabled: bool = True
    dir: str | None = None
    """Without one: ``ranvier/events/PORT`` in the user's state directory, if that can be written."""
    max_file_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024 * 1024
    max_files: Positive = 16
    max_buffered_records: Positive = 200_000


class DecisionsSection(Section):
    """Sampled decisions in words, for people."""

    max_per_second: Annotated[float, Field(ge=0, le=10_000)] = 10.0
    keep: Positive = 500
    """For the admin port."""
    dir: str | None = None
    """Written there too, when given."""
    max_file_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024 * 1024


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class MockSection(Section):
    """Mock workers that the gateway starts itself and stops when it ends."""

    count: Count = 0
    profile: str | None = None
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    arguments: tuple[str, ...] = ()
    """More options of ``gateway mock-worker``."""


class Config(Section):
    """The whole of it. Made by ``load_config``."""

    server: ServerSection = ServerSection()
    tls: TlsSection | None = None
    worker_tls: WorkerTlsSection = WorkerTlsSection()
    admin: AdminSection = AdminSection()
    api_keys: ApiKeysSection = ApiKeysSection()
    limits: LimitsSection = LimitsSection()
    timeouts: TimeoutsSection = TimeoutsSection()
    queue: QueueSection = QueueSection()
    failure: FailureSection = FailureSection()
    pool: tuple[PoolSection, ...] = (PoolSection(),)
    worker: tuple[WorkerSection, ...] = ()
    discovery: DiscoverySection = DiscoverySection()
    scrape: ScrapeSection = ScrapeSection()
    policy: PolicySection = PolicySection()
    event_log: EventLogSection = EventLogSection()
    decisions: DecisionsSection = DecisionsSection()
    log: LogSection = LogSection()
    mock: MockSection = MockSection()
    base: Path = Field(default=Path(), exclude=True)
    """Relative paths in the file are relative to this: the file's own folder."""

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        names = [p.name for p in self.pool]
        _unique("pool.name", names)
        if not names:
            raise ValueError("[[pool]] is empty: leave it out or name one")
        _unique("worker", [w.worker_id for w in self.workers])
        for worker in self.worker:
            if worker.pool is None and len(names) > 1:
                raise ValueError(f'worker {worker.url} must say its pool = "…", there is more than one')
            if worker.pool is not None and worker.pool not in names:
                raise ValueError(f"worker {worker.url}: no pool is called {worker.pool!r} ({', '.join(names)})")
        return self

    @property
    def workers(self) -> tuple[WorkerSection, ...]:
        """Every worker named anywhere in the file, its pool filled in."""
        inline = (WorkerSection(url=url, pool=pool.name) for pool in self.pool for url in pool.workers)
        listed = (w.model_copy(update={"pool": w.pool or self.pool[0].name}) for w in self.worker)
        return (*inline, *listed)

    def queue_of(self, pool: PoolSection) -> QueueSection:
        """The pool's own [pool.queue], or [queue]."""
        return pool.queue or self.queue

    def path(self, text: str) -> Path:
        """A path written in the file."""
        return self.base / Path(text).expanduser()


def _unique(what: str, values: list[str]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{what} {value!r} is there twice; each must differ")
