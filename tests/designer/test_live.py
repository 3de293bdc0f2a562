"""The live view over HTTP: it shows, it never changes, and it answers to its own address alone."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from designer.ledger import CandidateRecord
from designer.live import application
from designer.proposers.protocol import Proposal
from designer.sandbox import Evaluation, Task
from designer.search import RunOutcome, new_ledger
from designer.subject import subject_of_source
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


@asynccontextmanager
async def served(place: Path) -> AsyncIterator[Callable[[str], Awaitable[tuple[int, str]]]]:
    """Status and text of a path."""
    hosts: set[str] = set()
    runner = web.AppRunner(application(place, hosts))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    hosts.add(address)

    async def get(path: str) -> tuple[int, str]:
        async with ClientSession() as client, client.get(URL(f"http://{address}{path}", encoded=True)) as answer:
            return answer.status, await answer.text()

    try:
        yield get
    finally:
        await runner.cleanup()


async def shown(place: Path, path: str) -> tuple[int, str]:
    async with served(place) as get:
        return await get(path)


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


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\""


async def test_what_a_candidate_says_of_itself_is_text(tmp_path: Path) -> None:
    """Hypothesis, change, docstring and reason of failure are anybody's words."""
    source = f"# {HOSTILE}\n"
    subject = subject_of_source(source, HOSTILE)
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        ledger.add_subject(subject)
        proposal = Proposal(source, HOSTILE, 0.9, (), HOSTILE)
        ledger.add_candidate(CandidateRecord("search", 0, proposal, HOSTILE, 0))
        failed = Evaluation(Task(subject, 1), "failed", reason=HOSTILE)
        ledger.add_evaluation("train", ledger.run().scenario_hash, failed)
    status, page = await shown(tmp_path, "/")
    assert status == 200
    assert "Latest candidates" in page
    assert page.count("&lt;script&gt;") >= 2
    assert "<script" not in page
    assert "<img" not in page


async def test_a_page_that_goes_on_can_be_held_still(runs: str) -> None:
    async with ClientSession() as client, client.get(f"{runs}/runs/second?still") as answer:
        text = await answer.text()
    assert "http-equiv='refresh'" not in text
    assert "href='/runs/second'>Reload by itself" in text
    async with ClientSession() as client, client.get(f"{runs}/runs/second") as answer:
        assert "href='/runs/second?still'>Hold still" in await answer.text()


async def test_what_is_written_meanwhile_is_on_the_next_page(tmp_path: Path) -> None:
    source = "def create(rng): ...\n"
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        async with served(tmp_path) as get:
            pages = [await get("/runs/run") for _ in range(2)]
            ledger.add_subject(subject_of_source(source, "new"))
            ledger.add_candidate(CandidateRecord("search", 0, Proposal(source, "news of the day", None), "evolve", 0))
            pages += [await get("/runs/run") for _ in range(2)]
    assert ["news of the day" in page for _, page in pages] == [False, False, True, True]


async def test_reading_does_not_hold_up_the_run(tmp_path: Path) -> None:
    """A page is read in the middle of a write, and a write goes through in the middle of a read."""
    with new_ledger(tmp_path / "run", small_scenario(), SETTINGS) as ledger:
        writer = sqlite3.connect(ledger.path, isolation_level=None, timeout=0.0)
        writer.execute("BEGIN IMMEDIATE")
        status, _ = await shown(tmp_path, "/runs/run")
        writer.execute("COMMIT")
        reader = sqlite3.connect(ledger.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM run").fetchall()
        ledger.add_event("started", {"layers": []})
        reader.close()
        writer.close()
    assert status == 200
