"""The admin port's routes: health, metrics, policies, workers, decisions, configuration, a page to look at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from aiohttp import web

from gateway import __version__
from gateway.admin.access import RequestError, access, body_of, errors, json_answer
from gateway.admin.view import PoolsView
from gateway.config import Config, WorkerSection
from gateway.config_file import validated
from gateway.discovery.added import AddedWorkers
from gateway.discovery.file import placed
from gateway.discovery.membership import Membership
from gateway.policy_files import PolicyFiles
from gateway.reload import Plan
from gateway.telemetry.decisions import Decisions
from gateway.telemetry.metrics import GatewayMetrics

_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What the admin port shows and changes."""

    config: Callable[[], Config]
    """In force at the moment."""
    policies: PolicyFiles
    membership: Membership
    view: PoolsView
    metrics: GatewayMetrics
    decisions: Decisions
    not_ready: Callable[[], list[str]]
    """Why no new request should be sent here; empty when one may."""
    reload: Callable[[], Awaitable[Plan]]
    added: AddedWorkers


def make_app(plane: ControlPlane, token: str | None) -> web.Application:
    api = _Api(plane)
    guards = [errors, access(token, plane.config().admin.is_loopback)]
    app = web.Application(middlewares=guards, client_max_size=256 * 1024)
    app.add_routes(
        [
            web.get("/", api.page),
            web.get("/health/live", api.live),
            web.get("/health/ready", api.ready),
            web.get("/metrics", api.metrics),
            web.get("/admin/policies", api.policies),
            web.get("/admin/policies/{pool}", api.policy),
            web.post("/admin/policies/{pool}/load", api.load),
            web.post("/admin/policies/{pool}/rollback", api.rollback),
            web.post("/admin/policies/{pool}/rekey", api.rekey),
            web.get("/admin/pools", api.pools),
            web.get("/admin/workers", api.workers),
            web.post("/admin/workers", api.add_worker),
            web.delete("/admin/workers/{worker}", api.remove_worker),
            web.post("/admin/workers/{worker}/drain", api.drain_worker),
            web.get("/admin/decisions", api.decided),
            web.get("/admin/config", api.config),
            web.post("/admin/config/reload", api.reload),
        ]
    )
    return app


class _Api:
    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._page = files("gateway.admin").joinpath("dashboard.html").read_text(encoding="utf-8")

    async def page(self, request: web.Request) -> web.Response:
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
        return web.Response(text=self._page, content_type="text/html", headers={"content-security-policy": policy})

    async def live(self, request: web.Request) -> web.Response:
        return json_answer({"status": "ok", "version": __version__})

    async def ready(self, request: web.Request) -> web.Response:
        reasons = self._plane.not_ready()
        return json_answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self._plane.metrics.page(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def policies(self, request: web.Request) -> web.Response:
        return json_answer({"pools": [state.describe() for state in self._plane.policies.pools.values()]})

    async def policy(self, request: web.Request) -> web.Response:
        return json_answer(self._plane.policies.pools[self._pool(request)].describe())

    async def load(self, request: web.Request) -> web.Response:
        pool, body = self._pool(request), await body_of(request)
        specs = body.get("specs")
        text = "+".join(specs) if isinstance(specs, list) and all(isinstance(s, str) for s in specs) else specs
        if not isinstance(text, str) or not text or set(body) - {"specs", "sha256"}:
            raise RequestError(400, 'specs: must be a policy or a list of them; send {"specs": "head_room:ageing=1"}')
        await self._plane.policies.load(pool, text, sha256=_hashes_of(body))
        return json_answer(self._plane.policies.pools[pool].describe())

    async def rollback(self, request: web.Request) -> web.Response:
        pool, body = self._pool(request), await body_of(request)
        generation = body.get("generation")
        if set(body) - {"generation"} or not (generation is None or type(generation) is int):
            raise RequestError(400, 'generation: must be a whole number; send {} or {"generation": 3}')
        await self._plane.policies.rollback(pool, generation)
        return json_answer(self._plane.policies.pools[pool].describe())

    async def rekey(self, request: web.Request) -> web.Response:
        pool, body = self._pool(request), await body_of(request)
        if body:
            raise RequestError(400, f"{', '.join(body)}: unknown; send {{}}")
        num_held = self._plane.view.num_held(pool)
        self._plane.policies.rekey(pool)
        return json_answer({"pool": pool, "num_rekeyed_requests": num_held})

    async def pools(self, request: web.Request) -> web.Response:
        return json_answer({"pools": self._plane.view.pools()})

    async def workers(self, request: web.Request) -> web.Response:
        return json_answer({"workers": self._plane.view.workers()})

    async def add_worker(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        if "api_key_env" in body:
            raise RequestError(400, "api_key_env: is for files alone: it would send a secret of the gateway anywhere")
        names = [pool.name for pool in self._plane.config().pool]
        worker = placed("request", validated(WorkerSection, body, "request"), names)
        self._plane.membership.add(worker)
        await self._keep_added()
        return json_answer(self._plane.view.worker(worker.worker_id), 201)

    async def remove_worker(self, request: web.Request) -> web.Response:
        worker_id = self._worker(request)
        row = self._plane.view.worker(worker_id) | {"state": "draining"}
        self._plane.membership.remove(worker_id)
        await self._keep_added()
        return json_answer(row, 202)

    async def _keep_added(self) -> None:
        await self._plane.added.keep(self._plane.membership.wanted(AddedWorkers.name))

    async def drain_worker(self, request: web.Request) -> web.Response:
        worker_id = self._worker(request)
        self._plane.membership.drain(worker_id)
        return json_answer(self._plane.view.worker(worker_id), 202)

    async def decided(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "100")
        if not limit.isdecimal() or len(limit) > _MAX_DIGITS:
            raise RequestError(400, f"limit: is {limit!r}; give a whole number, as in ?limit=20")
        return json_answer({"decisions": self._plane.decisions.latest(int(limit))})

    async def config(self, request: web.Request) -> web.Response:
        shown: dict[str, Any] = self._plane.config().model_dump(mode="json")
        return json_answer(shown)

    async def reload(self, request: web.Request) -> web.Response:
        return json_answer((await self._plane.reload()).describe())

    def _pool(self, request: web.Request) -> str:
        pool = request.match_info["pool"]
        if pool not in self._plane.policies.pools:
            known = ", ".join(self._plane.policies.pools)
            raise RequestError(404, f"no pool is called {pool!r}; the pools are {known}")
        return pool

    def _worker(self, request: web.Request) -> str:
        worker = request.match_info["worker"]
        if worker not in self._plane.membership.members:
            raise RequestError(404, f"no worker is called {worker!r}; GET /admin/workers lists them")
        return worker


def _hashes_of(body: dict[str, Any]) -> dict[str, str]:
    given = body.get("sha256", {})
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise RequestError(400, 'sha256: must be texts by path; send {"specs": "/my.py", "sha256": {"/my.py": "…"}}')
    return given
