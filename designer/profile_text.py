"""A worker profile as the TOML that ``load_profile`` reads, to the last picosecond."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal

from gateway.mockworker.profile import WorkerProfile

_PS_BY_UNIT = {"ms": 10**9, "us": 10**6, "ns": 10**3}
STEP_KEYS: Mapping[str, str] = {
    "weights_ps": "weights_ms",
    "fixed_ps": "fixed_ms",
    "token_ps": "token_us",
    "decode_ps": "decode_ms",
    "decode_context_ps": "decode_context_ns",
    "prefill_context_ps": "prefill_context_ns",
    "host_step_ps": "host_step_ms",
    "host_sequence_ps": "host_sequence_us",
    "host_request_ps": "host_request_ms",
}
"""The file's key for each time of a profile."""


def profile_toml(
    profile: WorkerProfile,
    sources: Mapping[str, str],
    source_of: Mapping[str, str],
    errors: Mapping[str, str] | None = None,
) -> str:
    """The text of a profile file.

    Args:
        sources: the table ``[sources]``: a key and what it stands for.
        source_of: the source's key for each field of the profile and of its engine; ``""`` is for those not named.
        errors: a stated error, for fields that have one.
    """
    told = errors or {}

    def line(key: str, field: str, value: str) -> str:
        source = source_of.get(field, source_of.get("", ""))
        error = f", error = {json.dumps(told[field])}" if field in told else ""
        return f"{key} = {{ value = {value}, source = {json.dumps(source)}{error} }}"

    engine = profile.engine
    lines = [f"description = {json.dumps(profile.description)}", "", "[sources]"]
    lines += [f"{key} = {json.dumps(text)}" for key, text in sources.items()]
    lines += ["", "[engine]"]
    names = [f.name for f in fields(engine) if f.repr]  # what has none is a counterfactual, which no server has
    lines += [line(name, name, _value(getattr(engine, name))) for name in names]
    lines += ["", "[step]"]
    lines += [line(key, field, _decimal(getattr(profile, field), key)) for field, key in STEP_KEYS.items()]
    return "\n".join(lines) + "\n"


def _value(value: bool | int | float | str) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _decimal(picoseconds: int, key: str) -> str:
    return f"{Decimal(picoseconds) / _PS_BY_UNIT[key.rpartition('_')[2]]:f}"
