"""Options of a command as dataclasses: what belongs together is declared together, and typer sees it flat."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The same command for typer: each parameter whose type is a dataclass becomes the options that are its fields.

    A field is annotated as a parameter of a command would be; its default is the option's.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = list[inspect.Parameter]()
    for name, parameter in inspect.signature(command).parameters.items():
        group = groups.get(name)
        parameters += _fields(group) if group is not None else [_flat(name, hints[name], parameter.default)]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    ordered = sorted(parameters, key=lambda one: one.default is not inspect.Parameter.empty)
    vars(flat)["__signature__"] = inspect.Signature(ordered, return_annotation=None)
    flat.__annotations__ = {one.name: one.annotation for one in ordered}
    return flat


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_flat(field.name, hints[field.name], _default(field)) for field in dataclasses.fields(group)]


def _default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _flat(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
