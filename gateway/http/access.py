"""Whether a request bears an API key that may do what it asks. Decided at its head, before its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.api_keys import digest
from gateway.http.answers import RefusedError, error_body
from gateway.http.incoming import IncomingRequest
from gateway.openai_api import MODEL_PATHS, canonical_path

if TYPE_CHECKING:
    from gateway.api_keys import ApiKeys

_CHALLENGE = b"www-authenticate: Bearer\r\n"
_NO_KEY = "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY."
_WRONG_KEY = "Incorrect API key provided."
_CREDENTIALS = (b"authorization:", b"x-api-key:")


def authorise(keys: ApiKeys, incoming: IncomingRequest, *, forward: bool) -> None:
    """Notes whose key it is. ``forward``: the worker gets the key too.

    Raises:
        RefusedError: 401 without a valid key; 403 where a key for some models asks for what names none.
    """
    path, reading = canonical_path(incoming.path), incoming.method in (b"GET", b"HEAD")
    if reading and path == "/health":
        return  # for load balancers; answered here
    presented = _presented(incoming)
    key = keys.get(digest(presented)) if presented else None
    if key is None:
        raise _unauthorised(_WRONG_KEY if presented else _NO_KEY)
    if key.models and not (_names_a_model(incoming, path) or (reading and path == "/v1/models")):
        raise RefusedError(403, "This API key is for certain models, and this request names none that can be checked.")
    incoming.key = key
    if not forward:
        incoming.headers = [line for line in incoming.headers if not line.lower().startswith(_CREDENTIALS)]


def _presented(incoming: IncomingRequest) -> bytes:
    scheme, _, key = incoming.authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return key.strip()
    return incoming.x_api_key


def _names_a_model(incoming: IncomingRequest, path: str) -> bool:
    """In JSON: a form can be written so that two readers find two models in it."""
    is_form = incoming.content_type.lower().startswith(b"multipart/")
    return incoming.method == b"POST" and path.encode("utf-8", "replace") in MODEL_PATHS and not is_form


def _unauthorised(message: str) -> RefusedError:
    body = error_body(401, message, code="invalid_api_key", kind="invalid_request_error")
    return RefusedError(401, message, body, _CHALLENGE)
