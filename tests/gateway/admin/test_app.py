"""The admin port of a whole gateway, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fake_vllm import FakeVllm, auto
from tests.support.running_shell import Shell, running_shell


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    async with FakeVllm() as worker, running_shell({"worker": [{"url": worker.url}]}) as running:
        yield running


async def test_health(shell: Shell) -> None:
    assert (await shell.admin("GET", "/health/live")).json()["status"] == "ok"
    ready = await shell.admin("GET", "/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})


async def test_not_ready_without_a_worker() -> None:
    async with running_shell({}, num_ready=0) as shell:
        ready = await shell.admin("GET", "/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["no worker is ready"])
        assert (await shell.complete()).status_code == 503


async def test_policies_are_loaded_and_rolled_back(shell: Shell, tmp_path: Path) -> None:
    loaded = await shell.admin("POST", "/admin/policies/default/load", {"specs": ["random", "fcfs"]})
    assert loaded.status_code == 200
    assert loaded.json()["current"]["slots"]["routing"]["policy"] == "routing/random"
    refused = await shell.admin("POST", "/admin/policies/default/load", {"specs": f"{tmp_path}/none.py"})
    assert refused.status_code == 422
    assert "No such file" in refused.json()["error"]["message"]
    shown = (await shell.admin("GET", "/admin/policies")).json()["pools"][0]
    assert shown["last_error"]["message"] == refused.json()["error"]["message"]
    back = (await shell.admin("POST", "/admin/policies/default/rollback")).json()
    assert back["current"]["slots"]["routing"]["policy"] == "routing/least_loaded"
    assert (await shell.admin("POST", "/admin/policies/default/rollback")).status_code == 422
    one = (await shell.admin("GET", "/admin/policies/default")).json()
    assert [entry["ok"] for entry in one["log"]] == [True, True, False, True]


async def test_a_worker_is_added_drained_and_removed(shell: Shell) -> None:
    async with FakeVllm() as worker:
        added = await shell.admin("POST", "/admin/workers", {"url": worker.url, "id": "second"})
        assert (added.status_code, added.json()["state"]) == (201, "connecting")
        await shell.until(lambda: shell.gateway.view.num_ready() == 2)
        assert (await shell.admin("POST", "/admin/workers", {"url": worker.url, "id": "second"})).status_code == 409
        assert (await shell.admin("POST", "/admin/workers/second/drain")).json()["state"] == "draining"
        assert shell.gateway.view.num_ready() == 1
        assert (await shell.admin("DELETE", "/admin/workers/second")).status_code == 202
        await shell.until(lambda: "second" not in shell.gateway.membership.members)
        names = [w["worker_id"] for w in (await shell.admin("GET", "/admin/workers")).json()["workers"]]
        assert len(names) == 1 and "second" not in names


async def test_metrics_and_decisions_tell_of_a_request(shell: Shell) -> None:
    answer = await shell.complete(stream=True)
    assert answer.status_code == 200
    page = (await shell.admin("GET", "/metrics")).text
    worker = answer.headers["x-ranvier-worker"]
    assert 'ranvier_requests_total{code="2xx",ending="completed",pool="default"} 1.0' in page
    assert f'ranvier_dispatches_total{{worker="{worker}"}} 1.0' in page
    assert f'ranvier_worker_ready{{pool="default",worker="{worker}"}} 1.0' in page
    assert 'ranvier_policy_generation{pool="default"} 1.0' in page
    assert 'ranvier_request_ttft_seconds_count{pool="default"} 1.0' in page
    (decision,) = (await shell.admin("GET", "/admin/decisions?limit=5")).json()["decisions"]
    assert decision["request_id"] == answer.headers["x-request-id"]
    assert decision["chosen"] == worker and decision["why"] == "the only candidate"
    assert decision["outcome"]["ended"] == "completed"
    assert "hello" not in str(decision)


async def test_the_configuration_is_shown_without_secrets() -> None:
    async with running_shell({"admin": {"token": "s3cret"}}, num_ready=0) as shell:
        shown = await shell.admin("GET", "/admin/config", authorization="Bearer s3cret")
        assert shown.json()["server"]["host"] == "127.0.0.1"
        assert "s3cret" not in shown.text


async def test_the_page_is_self_contained(shell: Shell) -> None:
    page = await shell.admin("GET", "/")
    assert page.status_code == 200 and "Ranvier gateway" in page.text
    assert "http://" not in page.text and "https://" not in page.text and "src=" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/admin/policies/nope", None, 404, "no pool is called 'nope'; the pools are default"),
        ("POST", "/admin/policies/default/load", {}, 400, "specs: must be a policy or a list of them"),
        ("POST", "/admin/policies/default/load", {"specs": [1]}, 400, "specs: must be"),
        ("POST", "/admin/policies/default/load", [], 400, "the body must be a JSON object"),
        ("POST", "/admin/policies/default/load", {"specs": "a b@"}, 422, "a b@"),
        ("POST", "/admin/policies/default/rollback", {"generation": "x"}, 400, "generation: must be a whole number"),
        ("POST", "/admin/workers", {"ulr": "http://x:1"}, 400, "ulr: unknown key; did you mean url?"),
        ("POST", "/admin/workers", {"url": "http://x:1", "pool": "q"}, 400, "no pool is called 'q'"),
        ("DELETE", "/admin/workers/nope", None, 404, "no worker is called 'nope'"),
        ("POST", "/admin/policies/default/rekey", {"all": 1}, 400, "all: unknown; send {}"),
        ("POST", "/admin/policies/nope/rekey", {}, 404, "no pool is called 'nope'"),
        ("GET", "/admin/decisions?limit=x", None, 400, "limit: is 'x'"),
        ("GET", "/admin/decisions?limit=%C2%B2", None, 400, "limit: is '²'"),
        ("GET", "/admin/decisions?limit=" + 5000 * "9", None, 400, "limit: is "),
        ("GET", "/nowhere", None, 404, "GET /nowhere: Not Found"),
        ("PUT", "/admin/config", None, 405, "Method Not Allowed"),
    ],
)
async def test_every_error_has_the_one_shape(
    shell: Shell, method: str, path: str, body: Any, status: int, message: str
) -> None:
    answer = await shell.admin(method, path, body)
    error = answer.json()["error"]
    assert answer.status_code == status == error["code"]
    assert message in error["message"]


SURROGATE = """
def create(rng):
    raise ValueError("half a pair: \\ud800")
"""


async def test_half_a_surrogate_pair_is_a_refusal_like_any_other(shell: Shell, tmp_path: Path) -> None:
    """In a body, in a path, and in what a policy raises, which is then shown for as long as it is the last error."""
    url = f"http://127.0.0.1:{shell.ports.admin}/admin/policies"
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"content-type": "application/json"}
        body = await client.post(f"{url}/default/load", content=b'{"specs": "\\ud800"}', headers=headers)
        path = await client.get(f"{url}/%ED%A0%80")
    assert (body.status_code, path.status_code) == (400, 404)
    assert all(answer.json()["error"]["code"] == answer.status_code for answer in (body, path))
    (tmp_path / "bad.py").write_text(SURROGATE)
    refused = await shell.admin("POST", "/admin/policies/default/load", {"specs": f"{tmp_path}/bad.py"})
    assert refused.status_code == 422
    assert "half a pair: " in refused.json()["error"]["message"]
    shown = await shell.admin("GET", "/admin/policies")
    assert shown.status_code == 200
    assert "half a pair: " in shown.json()["pools"][0]["last_error"]["message"]


LAST_FIRST = """
def create(rng):
    return LastFirst()


class LastFirst:
    def __init__(self):
        self.num_keys = 0

    def admit(self, request, pool):
        return True

    def key(self, request):
        self.num_keys += 1
        return request.arrival_time if self.num_keys < 3 else -request.arrival_time

    def route(self, request, candidates, pool):
        return None if pool.num_queued_requests < 3 else candidates[0]
"""


async def test_what_is_held_is_ordered_anew(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "last.py").write_text(LAST_FIRST)
    await shell.admin("POST", "/admin/policies/default/load", {"specs": f"{tmp_path}/last.py"})
    asked = [asyncio.ensure_future(shell.complete()) for _ in range(2)]
    await shell.until(lambda: shell.gateway.view.num_held("default") == 2)
    queue = shell.gateway.dispatcher.pools["default"].queue
    head = queue.head()
    done = await shell.admin("POST", "/admin/policies/default/rekey", {})
    assert (done.status_code, done.json()) == (200, {"pool": "default", "num_rekeyed_requests": 2})
    assert queue.head() is not head
    await shell.admin("POST", "/admin/policies/default/rollback")
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_drained_work_ends_before_its_worker_goes(shell: Shell) -> None:
    async with FakeVllm(auto(chunks=4, gap=0.05)) as slow:
        await shell.admin("POST", "/admin/workers", {"url": slow.url, "id": "slow"})
        await shell.until(lambda: shell.gateway.view.num_ready() == 2)
        requests = [asyncio.ensure_future(shell.complete(stream=True)) for _ in range(4)]
        await shell.until(lambda: shell.gateway.view.in_flight("slow"))
        await shell.admin("DELETE", "/admin/workers/slow")
        answers = await asyncio.gather(*requests)
        assert all(a.status_code == 200 and a.text.rstrip().endswith("[DONE]") for a in answers)
        await shell.until(lambda: "slow" not in shell.gateway.membership.members)
