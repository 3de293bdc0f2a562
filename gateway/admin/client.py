"""The command line's side of the admin port."""

from __future__ import annotations

from typing import Any

import httpx

from gateway.errors import AdminUnreachableError, GatewayError, one_line

_SECONDS = 90.0
"""Longer than the check of a policy set may take."""


class AdminClient:
    def __init__(self, address: str, token: str | None, *, option: str = "--admin") -> None:
        """``option``: what the user gave ``address`` with; an error names it."""
        self._address = address.rstrip("/")
        self._option = option
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def pool(self, name: str | None) -> str:
        """``name``, or the only pool there is."""
        if name:
            return name
        pools = [pool["pool"] for pool in self.get("/admin/policies")["pools"]]
        if len(pools) != 1:
            raise GatewayError(f"there are pools {', '.join(pools)}; choose one with --pool")
        return str(pools[0])

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """The answer's JSON. GatewayError with the gateway's own words when it refuses."""
        try:
            answer = httpx.request(
                method, self._address + path, json=body, headers=self._headers, timeout=_SECONDS, trust_env=False
            )
            value = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise AdminUnreachableError(
                f"no gateway answers at {self._address} ({one_line(str(error), 120)}); "
                f"is it running, is {self._option} right?"
            ) from None
        if answer.is_error:
            raise GatewayError(value["error"]["message"] if isinstance(value.get("error"), dict) else answer.text)
        return value
