"""Workers that were added while the gateway ran are there again after it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.config import WorkerSection
from gateway.config_file import load_config
from gateway.discovery.added import FILE_NAME, AddedWorkers
from gateway.inherited import Inherited
from gateway.listeners import listeners
from gateway.server import Gateway
from gateway.watchdog import Watchdog
from tests.support.fake_vllm import FakeVllm
from tests.support.running_shell import QUICK, running_shell


async def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    workers = [WorkerSection(url="http://x:1", pool="p"), WorkerSection(url="http://x:2", id="two", pool="q")]
    await AddedWorkers(tmp_path).keep(workers)
    assert AddedWorkers(tmp_path).read(["p", "q"]) == workers
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


async def test_without_a_folder_nothing_is_kept() -> None:
    added = AddedWorkers(None)
    await added.keep([WorkerSection(url="http://x:1", pool="p")])
    assert added.read(["p"]) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"worker": [3]}', '{"worker": [], "x": 1}'])
def test_a_file_that_cannot_be_used_is_told_and_left(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert AddedWorkers(tmp_path).read(["p"]) == []
    assert "workers added before are not known any more" in caplog.text


def test_a_pool_that_is_gone_takes_its_workers_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_text(
        json.dumps({"worker": [{"url": "http://x:1", "pool": "old"}, {"url": "http://x:2"}]})
    )
    assert [worker.worker_id for worker in AddedWorkers(tmp_path).read(["p"])] == ["x:2"]
    assert "no pool is called 'old'" in caplog.records[0].error  # type: ignore[attr-defined]


def test_one_that_cannot_be_used_does_not_take_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("GONE_WORKER_KEY", raising=False)
    tables = [{"url": "http://x:1", "api_key_env": "GONE_WORKER_KEY"}, {"url": 3}, {"url": "http://x:2"}]
    (tmp_path / FILE_NAME).write_text(json.dumps({"worker": tables}))
    assert [worker.worker_id for worker in AddedWorkers(tmp_path).read(["p"])] == ["x:2"]
    errors = [record.error for record in caplog.records]  # type: ignore[attr-defined]
    assert len(errors) == 2 and "api_key_env" in errors[0] and "url" in errors[1]


class _Slow(Gateway):
    """The process before it is told of a worker while it looks at those it knows."""

    meanwhile: WorkerSection

    async def _first_look(self) -> None:
        await super()._first_look()
        assert self._inherited is not None
        await AddedWorkers(self._inherited.state).keep([self.meanwhile])


async def test_what_is_added_while_the_next_process_starts_is_known_to_it(tmp_path: Path) -> None:
    data, admin = listeners("127.0.0.1", 0, "--port"), listeners("127.0.0.1", 0, "--admin-port")
    reading, writing = os.pipe()
    data_fds, admin_fds = [one.detach() for one in data], [one.detach() for one in admin]
    config = load_config(amend=lambda tables: tables.update(server={"port": 0}, scrape=QUICK))
    with Watchdog(0.1, 1.0) as watchdog:
        gateway = _Slow(config, watchdog, Inherited(data_fds, admin_fds, writing, str(tmp_path / "state")))
        gateway.meanwhile = WorkerSection(url="http://127.0.0.1:9", id="more", pool=config.pool[0].name)
        async with gateway.running():
            assert [(m.worker.worker_id, m.source) for m in gateway.membership.members.values()] == [("more", "admin")]
    os.close(reading)
    os.close(writing)


async def test_a_worker_added_through_the_admin_port_outlives_the_process(tmp_path: Path) -> None:
    tables = {"policy": {"state_dir": str(tmp_path / "state")}}
    async with FakeVllm() as configured, FakeVllm() as worker:
        tables["worker"] = [{"url": configured.url}]  # type: ignore[assignment]
        async with running_shell(tables) as shell:
            assert (await shell.admin("POST", "/admin/workers", {"url": worker.url, "id": "more"})).status_code == 201
            await shell.until(lambda: shell.gateway.view.num_ready() == 2)
        async with running_shell(tables, num_ready=2) as shell:
            rows = (await shell.admin("GET", "/admin/workers")).json()["workers"]
            assert {row["worker_id"] == "more": row["added_at_run_time"] for row in rows} == {True: True, False: False}
            assert (await shell.admin("DELETE", "/admin/workers/more")).json()["state"] == "draining"
            await shell.until(lambda: "more" not in shell.gateway.membership.members)
        async with running_shell(tables) as shell:
            assert "more" not in shell.gateway.membership.members
