"""The live view over HTTP: it shows, it never changes, and it answers to its own address alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from designer.live import application
from designer.search import RunOutcome, new_ledger
from tests.support.finished_run import SETTINGS
from tests.support.small_scenario import small_scenario


@pytest.fixture
async def runs(tmp_path: Path, outcome: RunOutcome) -> AsyncIterator[str]:
    """A finished run and one that has just begun."""
    (tmp_path / "first").symlink_to(outcome.folder)
    new_ledger(tmp_path / "second", small_scenario(), SETTINGS)
    hosts: set[str] = set()
    runner = web.AppRunner(application(tmp_path, hosts))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    hosts.add(address)
    yield f"http://{address}"
    await runner.cleanup()


async def test_it_lists_runs_and_shows_each(runs: str) -> None:
    async with ClientSession() as client:
        async with client.get(f"{runs}/") as answer:
            listed = await answer.text()
        async with client.get(f"{runs}/runs/first") as answer:
            ended = await answer.text()
        async with client.get(f"{runs}/runs/second") as answer:
            going_on = await answer.text()
    assert "/runs/first" in listed
    assert "has not ended" in listed
    assert "Sealed result" in ended
    assert "http-equiv='refresh'" not in ended
    assert "http-equiv='refresh'" in going_on


async def test_nothing_may_run_and_nothing_is_fetched(runs: str) -> None:
    async with ClientSession() as client, client.get(f"{runs}/runs/first") as answer:
        policy = answer.headers["content-security-policy"]
        text = await answer.text()
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "<script" not in text
    assert "src=" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_it_is_read_only(runs: str, method: str) -> None:
    async with ClientSession() as client, client.request(method, f"{runs}/") as answer:
        assert answer.status == 405


async def test_another_name_for_the_address_is_refused(runs: str) -> None:
    """A page elsewhere that has its own name resolve to loopback reads nothing."""
    async with ClientSession() as client, client.get(f"{runs}/", headers={"host": "example.com"}) as answer:
        assert answer.status == 421
        assert "Ranvier" not in await answer.text()


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fetc"])
async def test_what_is_not_listed_is_not_served(runs: str, name: str) -> None:
    async with ClientSession() as client, client.get(f"{runs}/runs/{name}") as answer:
        assert answer.status == 404
