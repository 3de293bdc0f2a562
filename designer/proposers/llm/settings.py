"""What a conversation with models may use and spend. Keys are not here: they come from the environment, when needed."""

from __future__ import annotations

import ipaddress
import tomllib
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from designer.proposers.llm.prompts import PromptError, read_prompts

RoleName = Literal["researcher", "analyst", "supervisor"]
ROLES: tuple[RoleName, ...] = ("researcher", "analyst", "supervisor")
Mode = Literal["single", "sequential", "parallel"]
OPENAI_HOST = "api.openai.com"


class LlmSettingsError(Exception):
    """Settings that cannot be used; one line that names the field and the fix."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Table):
    """Dollars for a million tokens; 0 for a server of one's own."""

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Role(_Table):
    """The model behind one role."""

    model: Annotated[str, Field(min_length=1)]
    base_url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    """Of an OpenAI-compatible API, usually ending in ``/v1``."""
    price: Price
    api_key_env: str = ""
    """The environment variable with the key; "": OPENAI_API_KEY at OpenAI's own address, elsewhere RANVIER_LLM_KEY.
    Where it is not set, the word ``none`` is sent."""
    plain_http: bool = False
    """Whether the key may be sent by http:// to another machine, readable on the way."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Of one reply, reasoning included."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens", "auto"] = "auto"
    """What the server calls it; auto: ``max_completion_tokens`` at OpenAI's own address, else ``max_tokens``."""
    context_tokens: Annotated[int, Field(ge=512)] = 128_000
    """Prompt and reply together; the oldest exchanges are left out of what is sent when it would be passed."""
    tools: Literal["native", "text"] = "native"
    """text: tools are described in the prompt and called by JSON in the reply, for servers without tool calls."""
    structured: Literal["json_schema", "json_object", "none"] = "none"
    """Whether the server is told to answer in JSON where JSON is wanted; ``json_schema`` with native tools also that a
    tool must be called where there are any."""
    stream: bool = True
    request_seconds: Annotated[float, Field(gt=0)] = 300.0
    """For a whole reply."""

    @field_validator("base_url")
    @classmethod
    def _bare(cls, url: str) -> str:
        """Nothing that could be a secret: it is kept with the run."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urllib.parse.urlsplit("")
        if "@" in url:
            raise ValueError("has a user or password in it, which would be kept; name the variable in api_key_env")
        if "?" in url or "#" in url:
            raise ValueError("has a query or fragment, which would be kept; give scheme, host and path alone")
        if not host:
            raise ValueError("has no host; write it as http://127.0.0.1:8000/v1")
        return url

    @property
    def host(self) -> str:
        return urllib.parse.urlsplit(self.base_url).hostname or ""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urllib.parse.urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @property
    def readable_on_the_way(self) -> bool:
        """Whether what is sent passes a network in the clear."""
        return self.base_url.lower().startswith("http://") and not _is_loopback(self.host)

    @property
    def key_variable(self) -> str:
        if self.api_key_env:
            return self.api_key_env
        return "OPENAI_API_KEY" if self.host == OPENAI_HOST else "RANVIER_LLM_KEY"

    @property
    def limit_field(self) -> str:
        if self.max_tokens_field != "auto":
            return self.max_tokens_field
        return "max_completion_tokens" if self.host == OPENAI_HOST else "max_tokens"

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars."""
        return (prompt_tokens * self.price.input + completion_tokens * self.price.output) / 1e6


class Caps(_Table):
    """Hard limits of a run, each checked before it could be passed; what failed counts."""

    dollars: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    tokens: Annotated[int, Field(ge=0)] = 5_000_000
    """Prompt and reply tokens."""
    requests: Annotated[int, Field(ge=0)] = 1000
    seconds: Annotated[float, Field(gt=0)] = 4 * 3600.0
    """Wall clock of the search with this proposer."""
    analysis_simulations: Annotated[int, Field(ge=0)] = 40
    """Simulations repeated to look at their requests; they score nothing and are not of the search's budget."""


class LlmSettings(_Table):
    """Everything about the proposer that is stored with a run."""

    researcher: Role
    analyst: Role
    supervisor: Role
    mode: Mode = "single"
    contexts: Annotated[int, Field(ge=1, le=64)] = 1
    """How many, after each other or at the same time."""
    experiments_per_context: Annotated[int, Field(ge=1)] = 12
    """After so many a sequential context ends; single and parallel ones have no such limit."""
    min_experiments: Annotated[int, Field(ge=0)] = 3
    """Before these are done, no context may stop."""
    turns_per_experiment: Annotated[int, Field(ge=2)] = 12
    """Replies of the Researcher without an experiment, at most."""
    analyst_turns: Annotated[int, Field(ge=1)] = 8
    """Replies of the Analyst to one question."""
    repairs: Annotated[int, Field(ge=0, le=5)] = 1
    """Times in a row that an unusable reply is sent back with its error."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 8
    """At one request, of those that may have to be paid for; then the run stops, and can be resumed."""
    outage_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 600.0
    """For which a request is tried again and again while the endpoint is away; then the same."""
    caps: Caps = Caps()
    prompts: Mapping[str, str]
    """The texts themselves, so that a run goes on with those it began with."""

    def role(self, name: RoleName) -> Role:
        role: Role = getattr(self, name)
        return role


def make_settings(
    config: Path | None = None,
    *,
    model: str | None = None,
    base_url: str | None = None,
    price: str | None = None,
    max_dollars: float | None = None,
    prompts: str | None = None,
) -> LlmSettings:
    """From a TOML file and what the command line says instead, which wins.

    Args:
        price: dollars a million tokens, ``IN,OUT`` or one number for both.
        prompts: ``small``, or a folder whose files replace the prompts of the same name.

    Raises:
        LlmSettingsError: something is missing or wrong.
    """
    content = _read(config) if config is not None else {}
    default = dict(_table(content, "default"))
    given = {"model": model, "base_url": base_url, "price": None if price is None else _price(price)}
    given = {name: value for name, value in given.items() if value is not None}
    roles: dict[str, dict[str, Any]] = {name: {**default, **_table(content, name), **given} for name in ROLES}
    for name, role in roles.items():
        _complete(name, role)
    content |= roles
    if max_dollars is not None:
        content["caps"] = {**_table(content, "caps"), "dollars": max_dollars}
    folder = prompts if prompts is not None else str(content.get("prompts", ""))
    try:
        content["prompts"] = read_prompts(folder, config.parent if config and prompts is None else Path())
        return LlmSettings.model_validate(content)
    except PromptError as error:
        raise LlmSettingsError(str(error)) from None
    except ValidationError as error:
        raise LlmSettingsError(f"{config or 'the llm proposer'}: {_first(error)}") from None


def stored_settings(content: Mapping[str, Any]) -> LlmSettings:
    """Those a run was started with.

    Raises:
        LlmSettingsError: this version refuses them.
    """
    try:
        return LlmSettings.model_validate(dict(content))
    except ValidationError as error:
        raise LlmSettingsError(f"the settings stored with this run: {_first(error)}; start a new run") from None


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text())
    except OSError as error:
        raise LlmSettingsError(f"{config}: {error.strerror}; name a readable .toml file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LlmSettingsError(f"{config}: not TOML: {error}") from None


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    table = content.pop(name, {}) if name == "default" else content.get(name, {})
    if not isinstance(table, dict):
        raise LlmSettingsError(f"{name}: must be a table, [{name}]")
    return table


def _complete(name: str, role: Mapping[str, Any]) -> None:
    """Said in the words of the command line, before the words of the schema."""
    if not role.get("model"):
        raise LlmSettingsError(f"{name}: no model; give --model NAME, or model in [default] of the --llm file")
    if not role.get("base_url"):
        raise LlmSettingsError(
            f"{name}: no endpoint; give --base-url https://HOST/v1 (prompts are sent there), or base_url in [default]"
        )
    if role.get("price") is None:
        raise LlmSettingsError(
            f"{name}: the price of {role['model']} is not known; give --price IN,OUT in dollars a million tokens, "
            "or --price 0"
        )


def _price(text: str) -> dict[str, float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        raise LlmSettingsError(f"--price {text}: write IN,OUT in dollars a million tokens, as in 0.15,0.60, or 0")
    return {"input": values[0], "output": values[-1]}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field}: {problem['msg']}"
