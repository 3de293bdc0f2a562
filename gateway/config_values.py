"""What a key of the configuration may hold: checked types, and the strict table all sections are."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
ApiKeyVariable = Annotated[str, AfterValidator(_set_variable)]


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
