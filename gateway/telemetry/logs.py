"""One line an event, as text or JSON; set up by the command line alone."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    """Both formats: the message, then whatever the caller gave as ``extra``."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return extra

    @staticmethod
    def time(record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in self.fields(record).items())
        return f"{self.time(record)} {record.levelname.lower()} {record.getMessage()}{pairs}"


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": self.time(record), "level": record.levelname.lower(), "logger": record.name}
        line = {**head, "message": record.getMessage(), **self.fields(record)}
        return orjson.dumps(line, default=str).decode()


def _quoted(value: object) -> str:
    """Quoted, with escapes, when it would not read as one word."""
    text = str(value)
    return text if text and not any(c.isspace() or c in '"=' for c in text) else orjson.dumps(text).decode()


def configure(level: str, form: str) -> None:
    """All loggers to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "watchfiles", "asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel("WARNING")
