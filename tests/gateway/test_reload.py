"""A configuration that changes under a running gateway: over real sockets, with streams alive."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.api_keys import entry
from gateway.config import Config
from gateway.config_file import load_config
from gateway.config_values import Section
from gateway.errors import ConfigError
from gateway.reload import plan
from tests.gateway.test_policy_files import GOOD
from tests.support.fake_vllm import FakeVllm, auto
from tests.support.running_shell import Shell, running_shell


def made(**tables: Any) -> Config:
    return load_config(amend=lambda t: t.update(tables))


def test_a_plan_says_what_takes_effect_and_what_waits() -> None:
    old = made(worker=[{"url": "http://a:1"}, {"url": "http://b:1"}], pool=[{"queue": {"max_requests": 5}}])
    new = made(
        worker=[{"url": "http://b:1"}, {"url": "http://c:1"}],
        pool=[{"queue": {"max_requests": 6}, "prior_output_tokens": 9.0}],
        server={"port": 1, "forwarded": "append"},
        admin={"port": 2},
        limits={"max_body_bytes": 7},
        policy={"seed": 3, "check_seconds": 4.0},
        tls={"cert": "c", "key": "k"},
    )
    planned = plan(old, new)
    assert planned.changed == (
        "limits.max_body_bytes",
        "policy.check_seconds",
        "pool.default.queue",
        "server.forwarded",
        "worker.a:1",
        "worker.c:1",
    )
    assert planned.needs_restart == (
        "admin.port",
        "policy.seed",
        "pool.default.prior_output_tokens",
        "server.port",
        "tls",
    )
    assert (planned.config.server.port, planned.config.server.forwarded) == (8000, "append")
    assert plan(planned.config, new).changed == ()


def test_pools_come_and_go_with_the_process() -> None:
    old = made(pool=[{"name": "a", "models": ["a"]}, {"name": "b", "models": ["b"]}])
    new = made(
        pool=[{"name": "a", "models": ["x"]}, {"name": "c", "models": ["c"]}],
        worker=[{"url": "http://w:1", "pool": "c"}, {"url": "http://v:1", "pool": "a"}],
    )
    planned = plan(old, new)
    assert planned.changed == ("pool.a.models", "worker.v:1")
    assert planned.needs_restart == ("pool.b", "pool.c", "worker.w:1")
    assert [(pool.name, pool.models) for pool in planned.config.pool] == [("a", ("x",)), ("b", ("b",))]


def test_a_worker_goes_with_its_pool_to_the_one_that_runs() -> None:
    """Each is in one pool; what a file with one pool leaves out is that pool's."""
    old = made(
        pool=[{"name": "a", "models": ["a"]}, {"name": "b", "models": ["b"], "workers": ["http://v:1", "http://u:1"]}]
    )
    new = made(pool=[{"name": "a", "models": ["a"], "workers": ["http://v:1"]}], worker=[{"url": "http://w:1"}])
    planned = plan(old, new)
    assert [(worker.worker_id, worker.pool) for worker in planned.config.workers] == [
        ("v:1", "a"),
        ("u:1", "b"),
        ("w:1", "a"),
    ]
    assert planned.changed == ("pool.a.workers", "worker.w:1")
    assert planned.needs_restart == ("pool.b",)
    renamed = made(pool=[{"name": "c"}], worker=[{"url": "http://w:1"}])
    assert plan(old, renamed).needs_restart == ("pool.a", "pool.b", "pool.c", "worker.w:1")


def test_what_is_read_once_waits() -> None:
    planned = plan(made(), made(policy={"history": 3, "watch_files": False}))
    assert (planned.changed, planned.needs_restart) == ((), ("policy.history", "policy.watch_files"))
    assert planned.config.policy == made().policy


def test_what_both_come_to_is_checked() -> None:
    """Here what waits was never valid: ``old`` was made around its checks."""
    twice = made(mock={"count": 1}).model_copy(update={"pool": (made().pool[0],) * 2})
    with pytest.raises(ConfigError, match=r"what waits for a restart: pool\.name 'default' is there twice"):
        plan(twice, made())


def test_every_table_is_reloaded_or_named() -> None:
    """None is silently left as it was."""
    for name, field in Config.model_fields.items():
        default = field.default
        if name in ("base", "pool", "worker", "discovery", "worker_tls") or not isinstance(default, Section):
            continue
        for key in type(default).model_fields:
            value = getattr(default, key)
            other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 or 1.0}.get(type(value))
            if other is None:
                continue
            changed = default.model_copy(update={key: other(value)})
            planned = plan(Config(), Config().model_copy(update={name: changed}))
            assert (*planned.changed, *planned.needs_restart) == (f"{name}.{key}",)


async def load(shell: Shell, **tables: Any) -> dict[str, Any]:
    shell.reread = tables
    answer = await shell.admin("POST", "/admin/config/reload")
    return {"status": answer.status_code, **answer.json()}


async def test_limits_timeouts_and_queues_change_while_it_runs() -> None:
    async with FakeVllm(auto()) as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
        assert (await shell.complete(prompt="x" * 500)).status_code == 200
        got = await load(
            shell,
            limits={"max_body_bytes": 300},
            queue={"max_requests": 7},
            failure={"retry_floor": 3},
            scrape={"unhealthy_after": 9},
            timeouts={"total_seconds": 33.0, "drain_seconds": 3.0},
            policy={"budget_seconds": 0.5, "kill_seconds": 0.6},
            server={"port": 1, "host": "127.0.0.2"},
        )
        assert got["status"] == 200
        assert got["needs_restart"] == ["server.host", "server.port"]
        assert "limits.max_body_bytes" in got["changed"]
        assert (await shell.complete(prompt="x" * 500)).status_code == 413
        pool = shell.gateway.dispatcher.pools["default"]
        assert (pool.config.max_queue_requests, pool.config.retry_floor) == (7, 3)
        assert shell.gateway.data_plane.settings.total_timeout_seconds == 33.0
        assert (await shell.complete()).status_code == 200
        shown = (await shell.admin("GET", "/admin/config")).json()
        assert (shown["limits"]["max_body_bytes"], shown["server"]["host"]) == (300, "127.0.0.1")
        assert b'ranvier_config_reloads_total{outcome="reloaded"} 1.0' in shell.gateway.metrics.page()
        assert shell.gateway.runtime.num_errors == 0


async def test_workers_join_and_drain_while_streams_live() -> None:
    async with (
        FakeVllm(auto(chunks=10, gap=0.05)) as one,
        FakeVllm(auto()) as two,
        running_shell({"worker": [{"url": one.url}]}) as shell,
    ):
        stream = asyncio.ensure_future(shell.complete(stream=True))
        await shell.until(lambda: one.requests)
        got = await load(shell, worker=[{"url": two.url}])
        assert len(got["changed"]) == 2
        await shell.until(lambda: [w["url"] for w in shell.gateway.view.workers()] == [two.url])
        assert (await stream).text.rstrip().endswith("[DONE]")
        await shell.until(lambda: shell.gateway.view.num_ready() == 1)
        assert (await shell.complete()).status_code == 200
        assert len(two.requests) == 1


async def test_policies_are_swapped_with_the_rest_or_nothing_is() -> None:
    async with FakeVllm(auto()) as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
        broken = await load(shell, pool=[{"policies": ["no_such"]}], limits={"max_body_bytes": 50})
        assert (broken["status"], "no such policy" in broken["error"]["message"]) == (422, True)
        assert shell.gateway.data_plane.settings.max_body_bytes > 50
        got = await load(shell, pool=[{"policies": ["random"]}], limits={"max_body_bytes": 5_000})
        assert got["changed"] == ["limits.max_body_bytes", "pool.default.policies"]
        pool = shell.gateway.dispatcher.pools["default"]
        assert pool.policy_set.identities["routing"].name == "routing/random"
        assert (await load(shell, pool=[{"policies": ["random"]}], limits={"max_body_bytes": 5_000}))["changed"] == []


async def test_a_reload_does_not_bring_revoked_keys_back(tmp_path: Path) -> None:
    """They are revoked while it checks a policy."""
    (tmp_path / "mine.py").write_text(GOOD)
    file = tmp_path / "keys.toml"
    file.write_text(entry("one", "key-one", "acme"))
    async with FakeVllm(auto()) as worker:
        tables = {"worker": [{"url": worker.url}], "api_keys": {"file": str(file)}}
        async with running_shell(tables) as shell:
            reloading = asyncio.ensure_future(load(shell, pool=[{"policies": [str(tmp_path / "mine.py")]}]))
            await shell.until(lambda: shell.gateway.policies._lock.locked())
            file.write_text(entry("two", "key-two", "acme"))
            shell.gateway.reload_keys()
            assert not reloading.done()
            assert (await reloading)["changed"] == ["pool.default.policies"]
            keys = shell.gateway.data_plane.api_keys
            assert keys is not None and [key.name for key in keys.values()] == ["two"]


async def test_a_file_that_cannot_be_used_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeVllm(auto()) as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
        shell.reread = {"server": {"forwarded": "append"}, "limits": {"max_bdy_bytes": 1}}
        with caplog.at_level(logging.ERROR), pytest.raises(ConfigError, match="did you mean max_body_bytes"):
            await shell.gateway.reload()
        assert "configuration not reloaded" in caplog.text
        assert shell.gateway.data_plane.settings.forwarded == "pass"
        assert (await shell.complete()).status_code == 200
