"""What a model wrote, as text that can be kept, sent and shown: applied once, where replies come in."""

from __future__ import annotations

import json
import re
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
"""Of a tool or of a call; servers refuse longer ones."""


class UnreadableError(ValueError):
    """A text that is no JSON, or none that can be read; one line."""


def clean(text: str) -> str:
    """Without control characters but tabs and ends of lines; halves of characters joined, or replaced if alone."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROL.sub("", whole.replace("\r\n", "\n"))


def clean_name(text: str, otherwise: str = "unnamed") -> str:
    """As a name that may go back to a server."""
    return _NO_NAME.sub("_", clean(text))[:_LONGEST_NAME] or otherwise


def decode(text: str) -> Any:
    """JSON that a model wrote; ends of lines inside of strings are forgiven, and its strings are clean.

    Raises:
        UnreadableError: it is no JSON, or nested too deeply, or a number in it is too long.
    """
    try:
        return clean_json(json.loads(text, strict=False))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(_why(error)) from None


def decode_from(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises:
        UnreadableError: none does.
    """
    try:
        found, end = json.JSONDecoder(strict=False).raw_decode(text, at)
        return clean_json(found), end
    except (ValueError, RecursionError) as error:
        raise UnreadableError(_why(error)) from None


def clean_json(value: Any) -> Any:
    """The same with every string clean."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean_json(item) for key, item in value.items()}
    return [clean_json(item) for item in value] if isinstance(value, list) else value


def _why(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
