"""A whole gateway: what is joined here works together."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.api_keys import entry
from gateway.errors import ConfigError, PolicyRefusedError, StartError
from gateway.telemetry.event_log import replay_log
from tests.support.fake_vllm import FakeVllm, auto
from tests.support.processes import free_port
from tests.support.running_shell import Shell, running_shell

LOOPS = """
def create(rng):
    return Loops()


class Loops:
    def route(self, request, candidates, pool):
        if request.tenant == "loop":
            items = [0]
            for item in items:
                items.append(item)
        return candidates[0]
"""


async def loop(shell: Shell) -> int:
    """The status of a request that sends the policy into its loop."""
    url = f"http://127.0.0.1:{shell.ports.data}/v1/completions"
    answer = await shell._client.post(url, json={"prompt": "x"}, headers={"x-ranvier-tenant": "loop"})
    return answer.status_code


async def test_a_policy_that_loops_is_interrupted_and_retired_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(LOOPS)
    async with FakeVllm(auto(chunks=3, gap=0.02)) as worker, running_shell({"worker": [{"url": worker.url}]}) as shell:
        await shell.gateway.policies.load("default", f"{tmp_path}/loops.py")
        streams = [asyncio.ensure_future(shell.complete(stream=True)) for _ in range(20)]
        await shell.until(lambda: len(worker.requests) == 20)
        assert await loop(shell) == 200
        answers = await asyncio.gather(*streams)
        assert all(a.text.rstrip().endswith("[DONE]") for a in answers)
        pool = shell.gateway.dispatcher.pools["default"]
        assert pool.policy_set.identities["routing"].name == "routing/least_loaded"
        shown = shell.gateway.policies.pool("default").describe()
        assert shown["current"]["generation"] == pool.policy_set.generation
        assert "interrupted" in shown["last_error"]["message"]
        assert (await shell.complete()).status_code == 200
        assert shell.gateway.runtime.num_errors == 0


async def test_swaps_under_load_lose_nothing_and_the_log_replays(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def create(:\n")
    tables = {"event_log": {"dir": str(tmp_path / "log")}}
    async with FakeVllm(auto(chunks=2, gap=0.01)) as one, FakeVllm() as two:
        urls = {"worker": [{"url": one.url}, {"url": two.url}]}
        async with running_shell({**tables, **urls}, num_ready=2) as shell:
            load = asyncio.ensure_future(keep_asking(shell, 150))
            for text in ("random", "head_room", "power_of_two+shortest_prompt_first"):
                await shell.gateway.policies.load("default", text, "start")
            with pytest.raises(PolicyRefusedError):
                await shell.gateway.policies.load("default", str(broken))
            await shell.gateway.policies.rollback("default")
            assert await load == [200] * 150
            assert shell.gateway.dispatcher.num_requests == 0
    (path,) = (tmp_path / "log").iterdir()
    assert replay_log(path).dispatches >= 150


async def keep_asking(shell: Shell, number: int) -> list[int]:
    statuses: list[int] = []
    for _ in range(number // 10):
        answers = await asyncio.gather(*(shell.complete(stream=n % 2 == 0) for n in range(10)))
        statuses += [a.status_code for a in answers]
    return statuses


async def test_workers_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "workers.toml"
    async with FakeVllm() as one, FakeVllm() as two:
        path.write_text(f"[[worker]]\nurl = '{one.url}'\n")
        async with running_shell({"discovery": {"file": {"path": str(path)}}}) as shell:
            await asyncio.sleep(0.3)  # until the watch is in place
            path.write_text(f"[[worker]]\nurl = '{two.url}'\n")
            await shell.until(lambda: [w["url"] for w in shell.gateway.view.workers()] == [two.url])
            await shell.until(lambda: shell.gateway.view.num_ready() == 1)


async def test_a_port_in_use_is_one_line_and_leaves_nothing_behind() -> None:
    port = free_port()
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", port)
    for tables, option in (({"server": {"port": port}}, "--port"), ({"admin": {"port": port}}, "--admin-port")):
        with pytest.raises(StartError, match=rf"port {port} on 127.0.0.1 is in use; .* another {option}"):
            async with running_shell(tables):
                pytest.fail("it started")
    server.close()
    await server.wait_closed()


async def test_mock_workers_that_cannot_start_are_one_line() -> None:
    with pytest.raises(StartError, match=r"the mock workers did not start: no-such-profile"):
        async with running_shell({"mock": {"count": 1, "profile": "no-such-profile"}}):
            pytest.fail("it started")


async def test_a_bad_policy_at_the_start_ends_it() -> None:
    with pytest.raises(PolicyRefusedError, match="no such policy"):
        async with running_shell({"pool": [{"policies": ["no_such_policy"]}]}):
            pytest.fail("it started")


async def test_two_pools_without_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pool\.models"):
        async with running_shell({"pool": [{"name": "a"}, {"name": "b"}]}):
            pytest.fail("it started")


async def test_draining_shows_and_lets_streams_end() -> None:
    timeouts = {"lame_duck_seconds": 0.2}
    async with (
        FakeVllm(auto(chunks=5, gap=0.1)) as worker,
        running_shell({"worker": [{"url": worker.url}], "timeouts": timeouts}) as shell,
    ):
        stream = asyncio.ensure_future(shell.complete(stream=True))
        await shell.until(lambda: worker.requests)
        drain = asyncio.ensure_future(shell.gateway._drain())
        await asyncio.sleep(0)
        assert not shell.gateway.data_plane.draining
        ready = await shell.admin("GET", "/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["draining"])
        assert (await shell.data("GET", "/health")).status_code == 503
        assert (await stream).text.rstrip().endswith("[DONE]")
        await drain


async def test_every_metric_is_documented(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    async with running_shell({"event_log": {"dir": str(tmp_path)}}, num_ready=0) as shell:
        families = [family for family in shell.gateway.metrics.registry.collect() if family.name.startswith("ranvier_")]
        names = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    assert len(names) > 20
    assert {name for name in names if f"`{name}`" not in text} == set()


async def test_api_keys_follow_their_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("one", "key-one", "acme"))
    async with FakeVllm(auto()) as worker:
        tables = {"worker": [{"url": worker.url}], "api_keys": {"file": str(file)}}
        async with running_shell(tables) as shell:

            async def status(key: str) -> int:
                url = f"http://127.0.0.1:{shell.ports.data}/v1/completions"
                headers = {"authorization": f"Bearer {key}"}
                return (await shell._client.post(url, json={"prompt": "x"}, headers=headers)).status_code

            assert (await status("key-one"), await status("key-two")) == (200, 401)
            before = shell.gateway.data_plane.api_keys
            file.write_text(entry("two", "key-two", "acme"))
            await shell.until(lambda: shell.gateway.data_plane.api_keys is not before)
            assert (await status("key-one"), await status("key-two")) == (401, 200)
            file.write_text("broken = ")
            shell.gateway.reload_keys()
            assert await status("key-two") == 200


async def test_it_does_not_start_open_when_its_keys_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        async with running_shell({"api_keys": {"file": str(tmp_path / "none.toml")}}, num_ready=0):
            raise AssertionError("it started")


async def test_a_workers_own_key_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_KEY", "w-key")
    async with FakeVllm(auto()) as worker:
        async with running_shell({"worker": [{"url": worker.url, "api_key_env": "WORKERS_KEY"}]}) as shell:
            assert (await shell.complete()).status_code == 200
            leak = {"url": "http://127.0.0.1:9", "api_key_env": "WORKERS_KEY"}
            assert (await shell.admin("POST", "/admin/workers", leak)).status_code == 400
        assert {r.headers.get("authorization") for r in worker.requests} == {"Bearer w-key"}


async def test_the_next_gateway_takes_the_port_over_before_the_first_stops() -> None:
    port = free_port()
    server = {"host": "127.0.0.1", "port": port, "reuse_port": True}
    async with FakeVllm(auto()) as worker:
        tables = {"worker": [{"url": worker.url}], "server": server}
        async with running_shell(tables) as first, running_shell(tables) as second:
            assert first.ports.data == second.ports.data == port
            await first.gateway.data_plane.drain(5)
            for _ in range(10):
                assert (await second.complete()).status_code == 200
            assert first.gateway.data_plane.num_client_connections == 0
    assert len(worker.requests) == 10


async def test_a_gateway_without_workers_says_so_and_is_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with running_shell({}, num_ready=0) as shell:
            ready = await shell.admin("GET", "/health/ready")
            assert (ready.status_code, ready.json()["reasons"]) == (503, ["no worker is ready"])
            assert "no worker is configured" in caplog.text and "--worker URL" in caplog.text
