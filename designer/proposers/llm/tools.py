"""What a model may call, and reading its calls, however it wrote them down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from designer.proposers.llm.clean import UnreadableError, decode, decode_from

_MOST_BEGINNINGS = 200
_PYTHON = re.compile(r"```(?:python|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class Arguments(BaseModel):
    """Of one tool; the docstring of the subclass is what the model reads."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    arguments: type[Arguments]

    @property
    def description(self) -> str:
        return " ".join((self.arguments.__doc__ or "").split())

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, without titles."""
        content = self.arguments.model_json_schema()
        content.pop("description", None)
        return dict(_untitled(content))

    def native(self) -> dict[str, Any]:
        """As the protocol announces it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    def text(self) -> str:
        """As a prompt describes it."""
        return f"- `{self.name}` {json.dumps(self.schema['properties'])}: {self.description}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a reply."""

    name: str
    raw: str
    """The arguments as they came."""
    arguments: Arguments | None = None
    """None: they cannot be used."""
    problem: str = ""
    identity: str = ""
    """The protocol's; empty for a call written as text."""


def read_calls(reply: Mapping[str, Any], tools: Sequence[Tool]) -> list[Call]:
    """The calls of a reply: the protocol's, else what its text holds; empty when it holds none.

    A text holds a call as a JSON object ``{"tool": …, "arguments": {…}}``; a fenced block of Python that follows is
    its ``source``, if the tool has one and the JSON has not.
    """
    known = {tool.name: tool for tool in tools}
    native = reply.get("tool_calls") or []
    if native:
        return [_checked(call["function"]["name"], call["function"]["arguments"], known, call["id"]) for call in native]
    content = str(reply.get("content") or "")
    for found in _objects(content):
        name = found.get("tool", found.get("name"))
        if isinstance(name, str):
            given = found.get("arguments", found.get("parameters", {}))
            return [_checked(name, json.dumps(_with_source(given, name, content, known)), known)]
    return []


def read_json(content: str, model: type[Arguments]) -> tuple[Arguments | None, str]:
    """The one object a reply should be, and what is wrong with it."""
    problem = "no JSON object in the reply"
    for found in _objects(content):
        try:
            return model.model_validate(found), ""
        except ValidationError as error:
            problem = describe(error)
    return None, problem


def describe(error: ValidationError) -> str:
    """Every problem, for the one who wrote it."""
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(str(part) for part in p['loc']) or 'arguments'}: {p['msg']}" for p in problems)


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """JSON schema of a call written as text."""
    one = [
        {
            "type": "object",
            "properties": {"tool": {"const": tool.name}, "arguments": tool.schema},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return {"anyOf": one} if len(one) > 1 else one[0]


def _checked(name: str, raw: str, known: Mapping[str, Tool], identity: str = "") -> Call:
    tool = known.get(name)
    if tool is None:
        return Call(name, raw, problem=f"no tool {name!r}; one of {', '.join(known)}", identity=identity)
    try:
        return Call(name, raw, tool.arguments.model_validate(decode(raw or "{}")), identity=identity)
    except UnreadableError as error:
        return Call(name, raw, problem=f"the arguments of {name} are no JSON: {error}", identity=identity)
    except ValidationError as error:
        return Call(name, raw, problem=f"{name}: {describe(error)}", identity=identity)


def _with_source(given: Any, name: str, content: str, known: Mapping[str, Tool]) -> Any:
    tool = known.get(name)
    block = _PYTHON.search(content)
    wants = tool is not None and "source" in tool.arguments.model_fields
    if wants and block and isinstance(given, dict) and not given.get("source"):
        return {**given, "source": block.group(1)}
    return given


def _objects(content: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text, outermost ones, in order; of the places where one might begin, the first."""
    at = content.find("{")
    for _ in range(_MOST_BEGINNINGS):
        if at < 0:
            return
        try:
            found, end = decode_from(content, at)
        except UnreadableError:
            end = at + 1
        else:
            yield found
        at = content.find("{", end)


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)}
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema
