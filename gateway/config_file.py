"""Reads a configuration, or another file of tables; a fault is one line that says how to put it right."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config import Config
from gateway.config_values import Section
from gateway.errors import ConfigError

SectionT = TypeVar("SectionT", bound=Section)


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
