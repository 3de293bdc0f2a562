"""The live view over HTTP: it shows, it never changes, and it answers to its own address alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from yarl import URL

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


async def shown(place: Path, path: str) -> tuple[int, str]:
    hosts: set[str] = set()
    runner = web.AppRunner(application(place, hosts))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    hosts.add(address)
    try:
        async with ClientSession() as client, client.get(URL(f"http://{address}{path}", encoded=True)) as answer:
            return answer.status, await answer.text()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("name", ["100% sure", "what?", "a#b", "two words", "x&y'z"])
async def test_a_folder_may_have_any_name(tmp_path: Path, outcome: RunOutcome, name: str) -> None:
    shutil.copytree(outcome.folder, tmp_path / name)
    new_ledger(tmp_path / "other", small_scenario(), SETTINGS)
    _, listed = await shown(tmp_path, "/")
    (link,) = [link for link in re.findall("href='([^']*)'", listed) if "other" not in link]
    status, page = await shown(tmp_path, link)
    assert status == 200
    assert "Sealed result" in page


async def test_a_run_that_cannot_be_read_is_a_page_that_says_so(tmp_path: Path) -> None:
    new_ledger(tmp_path / "good", small_scenario(), SETTINGS)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "ledger.sqlite").write_text("no database at all, but long enough to be looked at")
    status, page = await shown(tmp_path, "/runs/bad")
    assert status == 503
    assert "not a ledger" in page
    assert "<h1>" in page
    status, page = await shown(tmp_path, "/")
    assert status == 200
    assert "not a ledger" in page
