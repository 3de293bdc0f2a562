"""Before a run asks its first question: whether every endpoint is there and takes the key. It costs nothing.

An endpoint that has answered in this run is not looked at: if it is away, it is waited for.
"""

from __future__ import annotations

import json

from designer.proposers.llm.clean import clean
from designer.proposers.llm.conversation import Desk, LlmError, answered
from designer.proposers.llm.diagnosis import not_listed, nothing_there, redirected, refused
from designer.proposers.llm.endpoint import Endpoint, EndpointError
from designer.proposers.llm.settings import ROLES, Role

_REFUSED = (401, 403, 404)
_LONGEST_NAME = 200


async def preflight(desk: Desk) -> None:
    """
    Raises:
        LlmError: an endpoint cannot be used; the line names the setting and the remedy.
    """
    known: dict[tuple[str, str], frozenset[str] | None] = {}
    told: set[str] = set()
    for name in ROLES:
        role, endpoint = desk.settings.role(name), desk.endpoints[name]
        if answered(role.base_url, desk.settings, desk.log):
            continue
        place = role.base_url, role.key_variable
        if place not in known:
            known[place] = await _look(role, endpoint)
        endpoint.served = known[place]
        if endpoint.served is not None and role.model not in endpoint.served:
            line = not_listed(role, endpoint.served)
            if line not in told:
                desk.say(f"llm: {line}")
            told.add(line)


async def _look(role: Role, endpoint: Endpoint) -> frozenset[str] | None:
    """The models it lists; None: it lists none, as some servers do, and some keys may not read the list."""
    try:
        status, content = await endpoint.probe("/models")
        if status in _REFUSED:
            await _look_closer(role, endpoint, status)
    except EndpointError as error:
        if error.nowhere:
            raise LlmError(str(error)) from None
        return None
    if 300 <= status < 400:
        raise LlmError(redirected(role, status))
    return _listed(content) if status == 200 else None


async def _look_closer(role: Role, endpoint: Endpoint, status: int) -> None:
    """What it says to a request without messages, which no server can have a model answer."""
    second, content = await endpoint.probe("/chat/completions", {"model": role.model})
    if second not in _REFUSED:
        return
    if status == second == 404:
        raise LlmError(nothing_there(role))
    said = " ".join(endpoint.scrub(content.decode("utf-8", "replace")).split())[:200]
    raise LlmError(refused(role, second, said, None))


def _listed(content: bytes) -> frozenset[str] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    cards = found.get("data") if isinstance(found, dict) else None
    if not isinstance(cards, list):
        return None
    names = [card.get("id") for card in cards if isinstance(card, dict)]
    return frozenset(clean(name)[:_LONGEST_NAME] for name in names if isinstance(name, str))
