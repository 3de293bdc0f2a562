"""Who may use the admin port, and the one shape its errors have.

Health and metrics are open. The rest wants the bearer token when there is one; without one it is served on a
loopback address only, to requests that name a loopback host (a web page that rebinds its name to 127.0.0.1 does not).
Changes must be sent as JSON, which a browser does not do for a foreign page without asking first.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import ConfigError, GatewayError, PolicyRefusedError, WorkerRefusedError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN = ("/health/", "/metrics")
_STATUS: dict[type[GatewayError], int] = {PolicyRefusedError: 422, WorkerRefusedError: 409, ConfigError: 400}


class RequestError(Exception):
    """A request that cannot be answered as it is: ``status``, and one line with the fix."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def json_answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_json(value), status=status, content_type="application/json")


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=str)
    except TypeError:  # half a surrogate pair, from a policy's error or a path
        return json.dumps(value, default=str, ensure_ascii=False).encode("utf-8", "replace")


def error_answer(status: int, message: str, kind: str) -> web.Response:
    return json_answer({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty one."""
    text = await request.read()
    try:
        body = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError(400, "the body must be a JSON object")
    return body


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes the one JSON shape."""
    try:
        return await handler(request)
    except RequestError as error:
        return error_answer(error.status, str(error), "invalid_request_error")
    except GatewayError as error:
        return error_answer(_STATUS.get(type(error), 500), str(error), type(error).__name__)
    except web.HTTPException as error:
        return error_answer(error.status, f"{request.method} {request.path}: {error.reason}", "invalid_request_error")
    except Exception:  # the task boundary of an admin request
        log.exception("admin request failed", extra={"method": request.method, "path": request.path})
        return error_answer(500, "internal error; the gateway's log has it", "internal_error")


def access(token: str | None, loopback: bool) -> Any:
    """The middleware that enforces what this module's docstring says."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(_OPEN):
            _authorize(request, token, loopback)
        return await handler(request)

    return guard


def _authorize(request: web.Request, token: str | None, loopback: bool) -> None:
    if token is not None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        page = request.method == "GET" and request.path == "/"  # without data: it asks for the token itself
        if not page and not hmac.compare_digest(given.encode(), token.encode()):
            raise RequestError(401, "give the admin token: Authorization: Bearer …")
    elif not loopback:
        raise RequestError(403, "set admin.token or admin.token_file: without one only loopback may use this")
    elif not _names_loopback(request.host):
        raise RequestError(403, f"host {request.host!r} is not this machine; use 127.0.0.1, or set admin.token")
    if request.method != "GET" and request.content_type != "application/json":
        raise RequestError(415, "send Content-Type: application/json")


def _names_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
