"""The whole gateway: makes every part, joins them, and ends them in order.

No decision is taken here. The dispatcher takes them all, on the event loop's own thread, where the watchdog
guards it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client.core import Metric

from gateway.admin.app import ControlPlane, make_app
from gateway.admin.view import PoolsView
from gateway.api_keys import load_keys
from gateway.check import check_pools
from gateway.config import Config, WorkerSection
from gateway.core.commands import Cancel, Dispatch, PolicySetRetired, Reject, SetReplicas
from gateway.core.dispatcher import Dispatcher
from gateway.core.events import PoolsReconfigured
from gateway.discovery.added import AddedWorkers
from gateway.discovery.file import FileWorkers
from gateway.discovery.membership import Membership
from gateway.discovery.source import WorkerSource, file_versions, follow
from gateway.discovery.static import StaticWorkers
from gateway.errors import ConfigError, GatewayError
from gateway.http.data_plane import DataPlane
from gateway.inherited import Inherited, listening
from gateway.listeners import bound
from gateway.machine_code import machine_code
from gateway.policy_files import PolicyFiles
from gateway.policy_state import LastEnd, PolicyState
from gateway.reload import Plan, plan
from gateway.replicas.mock_workers import mock_workers
from gateway.replicas.process import ProcessReplicas
from gateway.runtime import Clock, EventSink, Runtime
from gateway.settings import admin_token, http_settings, pool_configs, replica_templates
from gateway.telemetry import logs
from gateway.telemetry.decisions import Decisions
from gateway.telemetry.event_log import EventLog, open_event_log
from gateway.telemetry.log_file import LogFile
from gateway.telemetry.loop_lag import measure_lag
from gateway.telemetry.metrics import GatewayMetrics, counter
from gateway.telemetry.scraper import Scraper
from gateway.telemetry.sinks import sink_of
from gateway.tls import ServerTls, worker_context
from gateway.watchdog import Watchdog

log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running gateway listens."""

    data: int
    admin: int


class Gateway:
    """All parts of one gateway. Made on the event loop; ``running`` starts and ends them."""

    def __init__(
        self,
        config: Config,
        watchdog: Watchdog,
        inherited: Inherited | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self.config, self._inherited, self._watchdog = config, inherited, watchdog
        self._reread = reread or (lambda: config)
        self._reloading = asyncio.Lock()
        self._mocks: Sequence[str] = ()
        check_pools(config)
        counts: dict[str, int] = {}
        self.dispatcher = Dispatcher(pool_configs(config), output_tokens=counts, watch=watchdog)
        self.runtime = Runtime(self.dispatcher, Clock())
        self.metrics = GatewayMetrics(lambda name: self.view.pool_of(name), self._pool_for, machine_code().state)
        self._make_plane(config, counts)
        self._make_policies(config)
        self.replicas = ProcessReplicas(self.membership, replica_templates(config))
        self.runtime.bind(_Executor(self.data_plane, self.replicas, self.policies))
        self._collect()
        self._started = self._draining = self._handed_over = False
        self._admin: web.AppRunner | None = None

    def _make_plane(self, config: Config, counts: dict[str, int]) -> None:
        """What has to do with clients and workers."""
        submit, clock = self.runtime.submit, self.runtime.clock.time
        self._tls = None if config.tls is None else ServerTls(config.tls, config.path)
        worker_tls = worker_context(config.worker_tls, config.path)
        self.data_plane = DataPlane(self.runtime, http_settings(config), self.metrics, counts, worker_tls)
        self._api_keys = config.api_keys
        self.data_plane.api_keys = load_keys(self._api_keys, config.path)
        self.membership = Membership(
            submit,
            clock,
            self.data_plane,
            in_flight=lambda worker_id: self.view.in_flight(worker_id),
            left=self.metrics.worker_left,
            drain_seconds=config.timeouts.drain_seconds,
        )
        tokens_seen = lambda worker_id: counts.get(worker_id, 0)  # noqa: E731
        self.scraper = Scraper(
            submit, clock, self.membership.joined, config.scrape, self.metrics, tls=worker_tls, tokens_seen=tokens_seen
        )
        self.membership.attach(self.scraper)
        self.view = PoolsView(self.dispatcher.pools, self.membership, self.scraper, clock)

    def _make_policies(self, config: Config) -> None:
        """With what survives the process, where there is a place for it."""
        submit, clock = self.runtime.submit, self.runtime.clock.time
        names = [pool.name for pool in config.pool]
        kept = self._inherited.state if self._inherited is not None else None
        if config.policy.state_dir:
            kept = config.path(config.policy.state_dir)
        saved = PolicyState(kept) if kept else None
        self.policies = PolicyFiles(names, submit, clock, config.policy, self.metrics, config.base, saved)
        self.added = AddedWorkers(kept)

    def _collect(self) -> None:
        for collect in (self.view.collect, self._watchdog.collect, self._collect_errors):
            self.metrics.add_collector(collect)
        if self._inherited is not None:
            self.metrics.add_collector(self._inherited.collect)

    def _pool_for(self, model: str) -> str:
        pool = self.dispatcher.pool_for(model)
        return pool.config.name if pool else ""

    def not_ready(self) -> list[str]:
        """Why no new request should be sent here; empty when one may."""
        reasons = [] if self._started else ["starting"]
        if self._draining:
            reasons.append("draining")
        if not self.view.num_ready():
            reasons.append("no worker is ready")
        return reasons

    def _collect_errors(self) -> Iterable[Metric]:
        yield counter("ranvier_runtime_errors", "Defects: caught between events.", [], [([], self.runtime.num_errors)])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Ports]:
        """Serving when the block begins; drained and ended when it is left.

        Raises:
            StartError, PolicyRefusedError: it cannot serve as configured; nothing is left running.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end_workers)
            stack.callback(self.policies.close)
            decisions = self._open_logs(stack)
            for pool in self.config.pool:
                await self.policies.start(pool.name, "+".join(pool.policies), self._last_end)
            if self._inherited is None:
                ports = await self._open(stack, decisions)
            self._mocks = await stack.enter_async_context(mock_workers(self.config.mock))
            self.runtime.start()
            stack.callback(self.runtime.stop)
            self._apply_added()
            await stack.enter_async_context(self._background())
            if self._inherited is not None:
                await self._first_look()  # until then connections wait in the kernel's queue
                self._apply_added()  # the process before this one took orders meanwhile
                ports = await self._open(stack, decisions)
            stack.push_async_callback(self._drain)
            self._started = True
            self._warn_of_no_workers()
            yield ports

    @property
    def _last_end(self) -> LastEnd | None:
        return self._inherited.last_end if self._inherited else None

    async def _open(self, stack: AsyncExitStack, decisions: Decisions) -> Ports:
        """Both ports, the control plane's first."""
        admin_port = await self._start_admin(stack, decisions)
        stack.push_async_callback(self.data_plane.close)
        server = self.config.server
        return Ports(await bound(self._listen, server.host, server.port, "--port"), admin_port)

    async def _listen(self, host: str, port: int) -> int:
        tls = self._tls.context if self._tls else None
        if self._inherited is None:
            return await self.data_plane.start(host, port, tls)
        for given in listening(self._inherited.data_fds):
            port = await self.data_plane.start(host, port, tls, given)
        return port

    def _apply_added(self) -> None:
        self.membership.apply(AddedWorkers.name, self.added.read([pool.name for pool in self.config.pool]))

    async def _first_look(self) -> None:
        """Returns when every worker has answered, or has been found not to."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                await asyncio.sleep(_LOOK_SECONDS)
                while not all(s.joined or s.warned for s in self.scraper.sights.values()):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)

    def _warn_of_no_workers(self) -> None:
        config = self.config
        if not (config.workers or config.mock.count or config.discovery.file or replica_templates(config)):
            log.warning(
                "no worker is configured, so nothing can be served: give --worker URL, [[worker]] or [discovery.file], "
                "or add one through the admin port"
            )

    def hand_over(self) -> None:
        """Another process has the ports from here on; this one only finishes what it has."""
        self._handed_over = True
        self.policies.hand_over()

    def reload_tls(self) -> None:
        """Reads the certificate again, for the connections that come after."""
        if self._tls is not None:
            self._tls.reload()

    async def _follow_tls(self, file: Path) -> None:
        async for _ in file_versions(file):
            self.reload_tls()

    def reload_keys(self) -> None:
        """Reads the API keys again. Where that fails, those that were known stay."""
        if self.data_plane.api_keys is None:
            return
        try:
            self.data_plane.api_keys = load_keys(self._api_keys, self.config.path)
        except ConfigError as error:
            log.error("API keys not reloaded; those known before stay", extra={"error": str(error)})
        else:
            log.info("API keys loaded", extra={"keys": len(self.data_plane.api_keys or ())})

    async def _follow_keys(self) -> None:
        file = self._api_keys.file
        if file is not None:
            async for _ in file_versions(self.config.path(file)):
                self.reload_keys()

    async def reload(self) -> Plan:
        """Reads the configuration again and puts in force what can be while it runs.

        Raises:
            ConfigError, PolicyRefusedError: it cannot be used as it is; nothing has changed, unless it was a policy set
                that its first calls retired: then all else is in force.
        """
        async with self._reloading:
            try:
                planned = await self._reload(self._reread())
            except GatewayError as error:
                self.metrics.config_reloaded(False)
                log.error("configuration not reloaded", extra={"error": str(error)})
                raise
        self.metrics.config_reloaded(True)
        log.info("configuration reloaded", extra={"changed": ",".join(planned.changed)})
        if planned.needs_restart:
            keys = ",".join(planned.needs_restart)
            log.warning("changed, and in force only after a restart", extra={"keys": keys})
        return planned

    async def _reload(self, new: Config) -> Plan:
        planned = plan(self.config, new)
        config = planned.config
        check_pools(config)
        load_keys(self._api_keys, config.path)  # can they be read? They are when it is put in force
        if self._tls is not None:
            self._tls.check()
        before = {pool.name: pool.policies for pool in self.config.pool}
        texts = {pool.name: "+".join(pool.policies) for pool in config.pool if pool.policies != before[pool.name]}
        await self.policies.reload(texts, lambda: self._put_in_force(config))
        return planned

    def _put_in_force(self, config: Config) -> None:
        """Nothing in it fails or waits."""
        if config.log != self.config.log:
            logs.configure(config.log.level, config.log.format)
        self.config = config
        self.runtime.submit(PoolsReconfigured(self.runtime.clock.time(), tuple(pool_configs(config))))
        self.data_plane.reconfigure(http_settings(config))
        self.reload_keys()
        self.reload_tls()
        self.membership.drain_seconds = config.timeouts.drain_seconds
        self.scraper.settings = config.scrape
        self.policies.settings = config.policy
        self.replicas.templates = replica_templates(config)
        self.decisions.limit(config.decisions.max_per_second)
        self._watchdog.reconfigure(config.policy.budget_seconds, config.policy.kill_seconds)
        self.membership.apply(StaticWorkers.name, self._static_workers())

    def _static_workers(self) -> list[WorkerSection]:
        first = self.config.pool[0].name
        return [*self.config.workers, *(WorkerSection(url=url, pool=first) for url in self._mocks)]

    def _open_logs(self, stack: AsyncExitStack) -> Decisions:
        settings = self.config.decisions
        write: Callable[[bytes], None] | None = None
        if settings.dir:
            logs = LogFile(self.config.path(settings.dir), "decisions", max_file_bytes=settings.max_file_bytes)
            stack.callback(logs.close)
            write = logs.write
        decisions = self.decisions = Decisions(self.dispatcher.pools, settings.max_per_second, settings.keep, write)
        stack.callback(decisions.close)
        sinks: list[EventSink] = [decisions.event_handled]
        if (events := self._open_event_log()) is not None:
            stack.callback(events.close)
            self.metrics.add_collector(events.collect)
            sinks.insert(0, events.event_handled)
        self.runtime.event_log = sink_of(sinks, self.metrics.event_handled)
        return decisions

    def _open_event_log(self) -> EventLog | None:
        settings, pools, seed = self.config.event_log, pool_configs(self.config), self.config.policy.seed
        folder = self.config.path(settings.dir) if settings.dir else None
        return open_event_log(self.dispatcher, pools, seed, settings, folder, str(self.config.server.port))

    async def _start_admin(self, stack: AsyncExitStack, decisions: Decisions) -> int:
        plane = ControlPlane(
            lambda: self.config,
            self.policies,
            self.membership,
            self.view,
            self.metrics,
            decisions,
            self.not_ready,
            self.reload,
            self.added,
        )
        app = make_app(plane, admin_token(self.config))
        runner = self._admin = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)

        async def listen(host: str, port: int) -> int:
            own = listening(self._inherited.admin_fds) if self._inherited else ()
            sites: list[web.BaseSite] = [web.SockSite(runner, one) for one in own]
            for site in sites or [web.TCPSite(runner, host, port)]:
                await site.start()
            return int(runner.addresses[0][1])

        return await bound(listen, self.config.admin.host, self.config.admin.port, "--admin-port")

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(source, self.membership.apply)) for source in self._sources()]
            tasks.append(group.create_task(self.policies.follow_files()))
            tasks.append(group.create_task(self._follow_keys()))
            tasks.extend(group.create_task(self._follow_tls(file)) for file in (self._tls.files if self._tls else []))
            tasks.append(group.create_task(measure_lag(self.metrics.loop_lag.observe)))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _sources(self) -> list[WorkerSource]:
        pools = [pool.name for pool in self.config.pool]
        sources: list[WorkerSource] = [StaticWorkers(self._static_workers())]
        if self.config.discovery.file:
            sources.append(FileWorkers(self.config.path(self.config.discovery.file.path), pools))
        return sources

    async def _drain(self) -> None:
        self._draining = self.data_plane.about_to_drain = True
        if not self._handed_over:
            await asyncio.sleep(self.config.timeouts.lame_duck_seconds)
        elif self._admin is not None:
            await self._admin.cleanup()
        grace = self.config.timeouts.drain_seconds
        log.info("draining", extra={"requests": self.data_plane.num_requests, "grace_seconds": grace})
        if not await self.data_plane.drain(grace):
            log.warning("requests still in flight were cut off", extra={"grace_seconds": grace})
        await self.policies.ended()

    async def _end_workers(self) -> None:
        await self.membership.close()
        await self.scraper.close()
        await self.replicas.close()


class _Executor:
    """Passes each command to the part that carries it out."""

    def __init__(self, data_plane: DataPlane, replicas: ProcessReplicas, policies: PolicyFiles) -> None:
        self.dispatch: Callable[[Dispatch], None] = data_plane.dispatch
        self.reject: Callable[[Reject], None] = data_plane.reject
        self.cancel: Callable[[Cancel], None] = data_plane.cancel
        self.set_replicas: Callable[[SetReplicas], None] = replicas.set_replicas
        self.policy_set_retired: Callable[[PolicySetRetired], None] = policies.retired
