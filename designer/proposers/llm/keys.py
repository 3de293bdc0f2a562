"""Keys: from the environment, for the one host they are meant for, and never in the clear unless somebody says so."""

from __future__ import annotations

import os

from designer.proposers.llm.settings import ROLES, LlmSettings, LlmSettingsError, Role


def key_of(role: Role) -> str:
    """The key of a role's endpoint; empty: none.

    Raises:
        LlmSettingsError: it would be sent in the clear, or is no key.
    """
    key = os.environ.get(role.key_variable, "").strip()
    if not key:
        return ""
    if not (key.isascii() and key.isprintable()):
        raise LlmSettingsError(f"{role.key_variable}: has characters that no key has; set it again")
    if role.readable_on_the_way and not role.plain_http:
        raise LlmSettingsError(
            f"base_url: the key in {role.key_variable} would be sent in the clear to {role.origin}; "
            "use https://, unset the variable, or allow it by plain_http = true in the --llm file"
        )
    return key


def check_keys(settings: LlmSettings) -> None:
    """Before a run begins.

    Raises:
        LlmSettingsError: a key must not be sent, or one that nobody named would be sent to two hosts.
    """
    hosts: dict[str, str] = {}
    for name in ROLES:
        role = settings.role(name)
        if not key_of(role) or role.api_key_env:
            continue
        if hosts.setdefault(role.key_variable, role.origin) != role.origin:
            raise LlmSettingsError(
                f"{name}: the key in {role.key_variable} would be sent to {role.origin} and to "
                f"{hosts[role.key_variable]}; name the variable of each in api_key_env"
            )
