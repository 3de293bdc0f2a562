"""Who may use the admin port."""

from __future__ import annotations

import httpx
import pytest

from tests.support.running_shell import running_shell


async def ask(port: int, method: str, path: str, headers: dict[str, str], content: str = "{}") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}{path}"
        return await client.request(method, url, headers=headers, content=content)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/admin/config", {}, 401),
        ("/admin/config", {"authorization": "Bearer wrong"}, 401),
        ("/admin/config", {"authorization": "Bearer right"}, 200),
        ("/metrics", {}, 200),
        ("/health/live", {}, 200),
        ("/", {}, 200),
    ],
)
async def test_with_a_token(path: str, headers: dict[str, str], status: int) -> None:
    async with running_shell({"admin": {"token": "right"}}, num_ready=0) as shell:
        assert (await ask(shell.ports.admin, "GET", path, headers)).status_code == status


async def test_loopback_without_a_token_is_not_for_web_pages() -> None:
    async with running_shell({}, num_ready=0) as shell:
        port = shell.ports.admin
        assert (await ask(port, "GET", "/admin/config", {})).status_code == 200
        assert (await ask(port, "GET", "/admin/config", {"host": "evil.example"})).status_code == 403
        assert (await ask(port, "GET", "/admin/config", {"host": "localhost:9"})).status_code == 200
        assert (await ask(port, "GET", "/admin/config", {"host": "[::1]:9"})).status_code == 200
        path = "/admin/policies/default/load"
        assert (await ask(port, "POST", path, {"content-type": "text/plain"})).status_code == 415
        assert (await ask(port, "POST", path, JSON)).status_code == 400


async def test_an_open_address_without_a_token_shows_health_and_metrics_only() -> None:
    async with running_shell({"admin": {"host": "0.0.0.0"}}, num_ready=0) as shell:
        port = shell.ports.admin
        assert (await ask(port, "GET", "/metrics", {})).status_code == 200
        answer = await ask(port, "GET", "/admin/config", {})
        assert answer.status_code == 403
        assert "set admin.token" in answer.json()["error"]["message"]
