"""API keys: who may use the data port, as which tenant, for which models, how urgently. Only digests are kept.

A key is 256 random bits, so one round of SHA-256 is enough to keep it secret at rest: there is nothing to guess, and a
slow hash made for passwords would cost milliseconds a request. For the same reason a look-up by digest leaks nothing
by its duration: whoever times it learns about the digest of a guess, which brings no next guess nearer.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.config import ApiKeysSection
from gateway.config_file import read_tables, validated
from gateway.config_values import Name, Section
from gateway.errors import ConfigError

log = logging.getLogger(__name__)

_PREFIX = "sk-ranvier-"
_NUM_RANDOM_BYTES = 32
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What its bearer may do."""

    name: str
    tenant: str
    models: frozenset[str]
    """Empty: all."""
    priority: int
    """Of its requests, higher first. A request may ask for less, never for more."""

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models


ApiKeys = Mapping[bytes, ApiKey]
"""By the key's SHA-256 digest."""


def digest(key: bytes) -> bytes:
    return sha256(key).digest()


def new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)


# --- the file ---


def _hash(value: str) -> str:
    if not _HASH.fullmatch(value):
        raise ValueError('must be "sha256:" and 64 digits 0-9a-f; gateway key new prints one')
    return value


class KeySection(Section):
    """One ``[[key]]``."""

    name: Name
    hash: Annotated[str, AfterValidator(_hash)]
    tenant: Name
    models: tuple[str, ...] = ()
    priority: Annotated[int, Field(ge=-(2**31), le=2**31)] = 0


class KeysFile(Section):
    key: tuple[KeySection, ...]


def entry(name: str, key: str, tenant: str, models: tuple[str, ...] = (), priority: int = 0) -> str:
    """The ``[[key]]`` table for ``key``, without the key. ConfigError if a name may not be one."""
    values: dict[str, Any] = {"name": name, "hash": f"sha256:{sha256(key.encode()).hexdigest()}", "tenant": tenant}
    values |= {"models": list(models)} if models else {}
    values |= {"priority": priority} if priority else {}
    validated(KeySection, values, "key")
    return "\n".join(["[[key]]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items()), ""])


def read_keys(tables: Mapping[str, Any], where: str) -> ApiKeys:
    """ConfigError names the key and the fix."""
    keys: dict[bytes, ApiKey] = {}
    names: set[str] = set()
    for section in validated(KeysFile, tables, where).key:
        digested = bytes.fromhex(section.hash.removeprefix("sha256:"))
        if section.name in names or digested in keys:
            raise ConfigError(f"{where}: key {section.name!r} is there twice; each needs a name and a hash of its own")
        names.add(section.name)
        keys[digested] = ApiKey(section.name, section.tenant, frozenset(section.models), section.priority)
    return keys


def load_keys(settings: ApiKeysSection, path: Callable[[str], Path]) -> ApiKeys | None:
    """Of the file, or of the environment variable, which holds the text of such a file; None: keys are off.

    Raises:
        ConfigError: they are on and cannot be read. Nothing is open then.
    """
    if settings.file is not None:
        file = path(settings.file)
        return read_keys(read_tables(file), str(file))
    if settings.env is not None:
        return _from_environment(settings.env)
    return None


def _from_environment(name: str) -> ApiKeys:
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"api_keys.env: the environment variable {name} is not set; put the keys file's text in it")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"api_keys.env: {name} does not parse: {error}") from None
    return read_keys(tables, name)
