"""Answers the gateway gives itself: OpenAI's error object in vLLM's words, as whole HTTP responses."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Any

import orjson

from gateway.core.commands import Reject

_TYPES = {400: "Bad Request", 403: "PermissionDeniedError", 404: "NotFoundError", 429: "RateLimitError"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class RefusedError(Exception):
    """What the client sent is not going to be answered by any worker."""

    def __init__(
        self, status: int, message: str, body: bytes = b"", headers: bytes = b"", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body or error_body(status, message, param)
        self.headers = headers


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def error_body(
    status: int, message: str, param: str | None = None, *, code: str | None = None, kind: str | None = None
) -> bytes:
    """``{"error": {...}}`` with vLLM's type and code for the status, unless others are given."""
    kind = kind or _TYPES.get(status) or _phrase(status)
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code or status}})


def answer(status: int, body: bytes, *, headers: bytes = b"", close: bool = False, head_only: bool = False) -> bytes:
    """A whole JSON response. ``headers`` are further lines, each with its line end; ``head_only`` answers a HEAD."""
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b%b\r\n" % (
        status,
        _phrase(status).encode(),
        len(body),
        headers,
        b"connection: close\r\n" if close else b"",
    )
    return head if head_only else head + body


def json_body(value: Any) -> bytes:
    return orjson.dumps(value)


def error_chunk(message: str) -> bytes:
    """The SSE event that ends a stream which broke, in the shape vLLM sends one."""
    return b"data: %b\n\n" % error_body(502, message)


def chunk(data: bytes) -> bytes:
    """``data`` in chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def rejection(command: Reject, model: str) -> tuple[int, bytes, bytes]:
    """Status, body and further header lines for a request the dispatcher turned away."""
    status, message, param = _rejected(command, model)
    retry = b"" if command.retry_after is None else retry_header(command)
    return status, error_body(status, message, param), retry


def retry_header(command: Reject) -> bytes:
    """When to come back: whole seconds, at least 1."""
    return b"retry-after: %d\r\n" % max(1, ceil(command.retry_after or 0.0))


def _rejected(command: Reject, model: str) -> tuple[int, str, str | None]:
    match command.reason:
        case "shed":
            return 429, "The gateway is shedding load. Please try again later.", None
        case "queue_full":
            return 429, "The gateway's queue, or this tenant's part of it, is full. Please try again later.", None
        case "queue_timeout":
            return 503, "No worker could take the request within the longest time it may be queued.", None
        case "deadline":
            return 503, "The request's deadline passed while it was queued.", None
        case "no_worker":
            return 503, "No healthy worker serves this model at the moment.", None
        case "unknown_model":
            return 404, f"The model `{model}` does not exist.", "model"
        case "attempts":
            return 502, "Every worker that was tried failed before it answered.", None
