"""What is wrong with a table of a scenario, in one line: a key nobody knows before all that follows from it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_UNKNOWN = "extra_forbidden"


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """``workload.arrivals.rat: unknown key; did you mean rate? (and 1 more)``; ``model`` is the whole's."""
    first = min(error.errors(include_url=False), key=lambda detail: detail["type"] != _UNKNOWN)
    problem = f"{_dotted(first['loc'])}: {_described(first, model)}"
    more = error.error_count() - 1
    return f"{problem} (and {more} more)" if more else problem


def _described(detail: ErrorDetails, model: type[BaseModel]) -> str:
    if detail["type"] == _UNKNOWN:
        return f"unknown key{_suggestion(detail['loc'], model)}"
    return "missing" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")


def _suggestion(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    tables = [model]
    for part in location[:-1]:
        tables = list(_below(tables, part)) if isinstance(part, str) else tables
    known = sorted({name for table in tables for name in table.model_fields})
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; remove it (known here: {', '.join(known)})" if known else ""


def _below(tables: list[type[BaseModel]], part: str) -> Iterator[type[BaseModel]]:
    """The tables that ``part`` leads to: those of a field, or those of several whose kind it is."""
    for table in tables:
        if part in table.model_fields:
            yield from _tables_in(table.model_fields[part].annotation)
        elif "kind" in table.model_fields and part in get_args(table.model_fields["kind"].annotation):
            yield table


def _tables_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Inside ``tuple[X, ...]``, ``X | Y`` or ``X | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables_in(inner)


def _dotted(location: tuple[int | str, ...]) -> str:
    """``workload.arrivals.rate``, ``workers[1].count``; the tag that chose between kinds is no key."""
    if location[:1] == ("workload",) and location[1:2] in (("synthetic",), ("trace",)):
        location = location[:1] + location[2:]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "scenario"
