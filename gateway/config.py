"""The configuration: one frozen tree, strict about unknown keys, and nothing read from anywhere else.

``docs/configuration.md`` is the reference for operators. Keys with a unit carry it in their name.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from gateway.errors import ConfigError

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]


def _name(value: str) -> str:
    if not value or len(value) > 200 or any(c.isspace() or c in '/\\"' for c in value):
        raise ValueError("must be 1 to 200 characters without spaces, slashes or quotes")
    return value


def worker_url(value: str) -> str:
    """``value`` as a base URL without a trailing slash; a ValueError says what it lacks."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://10.0.0.7:8000")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has a port that is no number from 1 to 65535")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("must have neither user nor query; http://10.0.0.7:8000 or http://10.0.0.7:8000/base")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _set_variable(value: str) -> str:
    """The name of a variable of the environment that a header can be made of."""
    key = os.environ.get(value, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("must name an environment variable that is set to an API key")
    return value


Name = Annotated[str, AfterValidator(_name)]
WorkerUrl = Annotated[str, AfterValidator(worker_url)]


class Section(BaseModel):
    """A table of the file: frozen, unknown keys refused, no coercion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _arrays_are_tuples(cls, value: Any) -> Any:
        """TOML has arrays; a frozen tree has tuples."""
        if not isinstance(value, dict):
            return value
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}


SectionT = TypeVar("SectionT", bound=Section)


class ServerSection(Section):
    """The data port."""

    host: str = "0.0.0.0"  # noqa: S104 a gateway exists to be reached; the admin port is loopback
    port: Port = 8000
    reuse_port: bool = False
    """SO_REUSEPORT: the next process may listen before this one stops."""
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
    """Dispatches of one request."""
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
    first_byte_seconds: Seconds = 900.0
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
    api_key_env: Annotated[str, AfterValidator(_set_variable)] | None = None
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
    """Every input of the dispatcher; off without a directory."""

    dir: str | None = None
    max_file_bytes: Annotated[int, Field(ge=65_536)] = 256 * 1024 * 1024
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


def load_config(path: Path | None = None, amend: Callable[[dict[str, Any]], None] = lambda tables: None) -> Config:
    """The configuration in ``path`` (all defaults without one), after ``amend`` has changed its tables.

    Raises:
        ConfigError: one line that names the file, the dotted key, the value and the fix.
    """
    tables = read_tables(path) if path else {}
    if "base" in tables:
        raise ConfigError(f"{path}: base: unknown key; remove it")
    amend(tables)
    tables["base"] = path.resolve().parent if path else Path.cwd()
    return validated(Config, tables, str(path or "configuration"))


def validated(model: type[SectionT], tables: Mapping[str, Any], where: str) -> SectionT:
    """``tables`` as a ``model``, or a ConfigError of one line that begins with ``where``."""
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        errors = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")  # typos first
        rest = "" if len(errors) == 1 else f" (and {len(errors) - 1} more)"
        raise ConfigError(f"{where}: {_describe(errors[0], model, tables)}{rest}") from None


def read_tables(path: Path) -> dict[str, Any]:
    """A TOML file's tables, or a JSON file's object when its name ends in ``.json``."""
    try:
        text = path.read_text(encoding="utf-8")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name an existing file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: does not parse: {error}") from None
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: must be one JSON object with the key worker")
    return tables


def _describe(detail: ErrorDetails, model: type[Section], tables: Mapping[str, Any]) -> str:
    key = _dotted(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggest(detail['loc'], model)}"
    message = _FIXES.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key}: is missing; add it"
    if not key:
        return message
    return f"{key}: is {_shown(detail['loc'], tables)}; {message[0].lower() + message[1:]}"


_FIXES = {
    "tuple_type": 'must be a list: of tables, each under [[…]] in two brackets; of values, as in ["a", "b"]',
    "model_type": "must be a table: [name] on a line of its own, its keys below it",
}
"""For faults whose own words are Python's, not TOML's."""


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


def _shown(loc: tuple[int | str, ...], tables: Mapping[str, Any]) -> str:
    value: Any = tables
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break  # a step that pydantic takes and the file has not
    return "(a table)" if isinstance(value, dict) else "(hidden)" if loc[-1] in ("token", "hash") else repr(value)


def _suggest(loc: tuple[int | str, ...], model: type[Section]) -> str:
    """The keys that may stand where the unknown one does, the likeliest alone if it is near."""
    for part in loc[:-1]:
        if part in model.model_fields:
            model = _section_in(model.model_fields[str(part)].annotation) or model
    known = sorted(set(model.model_fields) - {"base"})
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"remove it (known here: {', '.join(known)})"


def _section_in(annotation: Any) -> type[Section] | None:
    """The Section inside ``tuple[X, ...]``, ``dict[str, X]`` or ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = [_section_in(arg) for arg in getattr(annotation, "__args__", ())]
    return next((x for x in inner if x is not None), None)
