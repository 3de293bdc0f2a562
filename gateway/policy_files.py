"""Policy sets from specs to the dispatcher, and back: load, roll back, follow files.

A swap is: copy the exact bytes aside, check the copy in a process that can be killed, load the same copy here,
replace between two events. Whatever fails leaves the running set as it is and the reason visible. No code
runs in this process before it has passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from watchfiles import awatch

from gateway.config import PolicySection
from gateway.core.commands import PolicySetRetired
from gateway.core.events import Event, PolicySetReplaced, QueueRekeyed
from gateway.core.policy_set import PolicySet
from gateway.errors import PolicyRefusedError
from gateway.policy_loading import absolute, check, copied, load_copies, parse
from gateway.policy_state import LastEnd, PolicyState, SavedPool, SavedSet, now
from gateway.policy_versions import Origin, PoolPolicies, Version
from policies.loader import PolicySpec
from policies.source_file import read_source

log = logging.getLogger(__name__)

_BUILTIN = "least_loaded"


class SwapMetrics(Protocol):
    def policy_swapped(self, pool: str, origin: Origin, ok: bool) -> None: ...


class PolicyFiles:
    """Args:
    submit: takes ``PolicySetReplaced``.
    clock: the runner's monotonic clock, seconds.
    base: relative paths in specs are relative to this folder.
    saved: where the sets that run are kept for the next process; None: nowhere.
    """

    def __init__(
        self,
        pools: Sequence[str],
        submit: Callable[[Event], None],
        clock: Callable[[], float],
        settings: PolicySection,
        metrics: SwapMetrics,
        base: Path,
        saved: PolicyState | None = None,
    ) -> None:
        self._saved = saved
        self._writing: Future[None] | None = None
        self._submit, self._clock, self.settings, self._metrics, self._base = submit, clock, settings, metrics, base
        self._copies = Path(tempfile.mkdtemp(prefix="ranvier-policies-"))
        self._lock = asyncio.Lock()
        self._files_changed = asyncio.Event()
        self.pools = {name: PoolPolicies(name, settings.history) for name in pools}

    def close(self) -> None:
        if self._saved is not None:
            self._saved.close()
            self._saved = None  # workers that leave after it may still have a set retired
        shutil.rmtree(self._copies, ignore_errors=True)

    def pool(self, name: str) -> PoolPolicies:
        """PolicyRefusedError when there is no such pool."""
        if name not in self.pools:
            raise PolicyRefusedError(f"no pool is called {name!r}; the pools are {', '.join(self.pools)}")
        return self.pools[name]

    async def load(
        self,
        pool: str,
        text: str,
        origin: Origin = "load",
        *,
        base: Path | None = None,
        sha256: Mapping[str, str] = MappingProxyType({}),
    ) -> Version:
        """Checks, loads and swaps in the set ``text``; returns once it decides.

        Args:
            sha256: by path, as the set may say it too, the SHA-256 (hex) that a file of the set must have.

        Raises:
            PolicyRefusedError: one line with the reason; the old set runs on.
        """
        base = base or self._base
        whole = {absolute(path, base): value for path, value in sha256.items()}
        return await self._load(self.pool(pool), text, lambda: parse(text, base), origin, base, whole)

    async def _load(
        self,
        state: PoolPolicies,
        text: str,
        specs: Callable[[], tuple[PolicySpec, ...]],
        origin: Origin,
        base: Path,
        sha256: Mapping[str, str] = MappingProxyType({}),
        pinned: Mapping[str, str] = MappingProxyType({}),
        save: bool = True,
    ) -> Version:
        """Args:
        pinned: as ``sha256``, of the files that are followed, where the set itself is loaded from others.
        save: for the next process; not while what the last one left is put back in place.
        """
        async with self._lock:
            try:
                version = await self._prepare(state, text, specs(), origin, sha256)
            except PolicyRefusedError as error:
                self._refused(state, text, origin, str(error))
                raise
            self._follow(state, text, origin, base, sha256 or pinned)
            self._replace(state, version, state.stack, save=save)
            await self._written()
            _still_runs(state, version)
            return version

    async def reload(self, texts: Mapping[str, str], before: Callable[[], None]) -> None:
        """Swaps the sets of several pools in at one time, right after ``before``; all of them or none.

        Args:
            texts: by pool, what the configuration names now.

        Raises:
            PolicyRefusedError: none was swapped in; or all were, and its first calls retired one.
        """
        async with self._lock:
            versions = {}
            for pool, text in texts.items():
                state = self.pool(pool)
                try:
                    versions[pool] = await self._prepare(state, text, parse(text, self._base), "reload")
                except PolicyRefusedError as error:
                    for version in versions.values():
                        shutil.rmtree(version.folder, ignore_errors=True)
                    self._refused(state, text, "reload", str(error))
                    raise
            before()
            for pool, version in versions.items():
                state = self.pools[pool]
                state.configured = version.text
                self._follow(state, version.text, "reload", self._base)
                self._replace(state, version, state.stack)
            await self._written()
            for pool, version in versions.items():
                _still_runs(self.pools[pool], version)

    async def start(self, pool: str, configured: str, end: LastEnd | None = None) -> Version:
        """The first set of a pool: what ran last, if that is known and the configuration still names what it named
        then; otherwise what it names. After a crash not what may have been its cause, but what ran before it.

        Args:
            end: how the last process ended; None: as far as the saved state says it.

        Raises:
            PolicyRefusedError: nothing of it can be loaded; the reason is that of what should have run.
        """
        state = self.pool(pool)
        state.configured = configured
        first: PolicyRefusedError | None = None
        saved = self._saved.read(state.name) if self._saved else None
        standing: list[SavedSet] = []
        for choice in self._choices(state, saved, end):
            try:
                await self._below(state, saved.before(choice) if saved else (), standing)
                return await self._first(state, choice, saved.pinned_of(choice) if saved else {})
            except PolicyRefusedError as error:
                first = first or error
        raise first or PolicyRefusedError(f"pool {pool} names no policy")

    async def _first(self, state: PoolPolicies, choice: SavedSet | str, pinned: Mapping[str, str]) -> Version:
        if isinstance(choice, str):
            return await self._load(state, choice, lambda: parse(choice, self._base), "start", self._base, pinned)
        return await self._restored(state, choice, pinned)

    async def _below(self, state: PoolPolicies, older: Sequence[SavedSet], standing: list[SavedSet]) -> None:
        """Puts in place for the moment what a rollback, by hand or by the guard, goes back to as before the restart."""
        for one in [one for one in older if one not in standing]:
            standing.append(one)
            with suppress(PolicyRefusedError):  # logged; those that are left can be gone back to
                await self._restored(state, one, {}, save=False)

    async def _restored(
        self, state: PoolPolicies, one: SavedSet, pinned: Mapping[str, str], *, save: bool = True
    ) -> Version:
        kept = partial(self._kept, one)
        return await self._load(state, one.text, kept, "restored", self._base, pinned=pinned, save=save)

    def _choices(self, state: PoolPolicies, saved: SavedPool | None, end: LastEnd | None) -> list[SavedSet | str]:
        """The best first."""
        if saved is None or saved.configured != state.configured or not saved.sets:
            return [state.configured]
        last, before = saved.sets[-1], list(reversed(saved.sets[:-1]))
        if not saved.suspect(end or saved.last_end(), now()):
            if last.text == state.configured:
                return [state.configured, last]  # its file may be newer by now, or broken
            return [last, *before, state.configured]
        log.error(
            "the last process did not end well; its last policy set is not loaded again",
            extra={"pool": state.name, "specs": last.text, "end": end or saved.last_end()},
        )
        others: list[SavedSet | str] = [one for one in before if one.hashes != last.hashes or one.text != last.text]
        return [*others, _BUILTIN if last.text == state.configured else state.configured]

    def _kept(self, saved: SavedSet) -> tuple[PolicySpec, ...]:
        if self._saved is not None:
            self._saved.verify(saved)
        return saved.specs

    async def ended(self) -> None:
        """The process ends as it was asked to: what runs is no suspect."""
        for state in self.pools.values():
            self._save(state, clean=True)
        await self._written()

    def hand_over(self) -> None:
        """From here on another process keeps what runs."""
        if self._saved is not None:
            self._saved.close(wait=False)
        self._saved = None

    def _save(self, state: PoolPolicies, *, clean: bool = False) -> None:
        saved = self._saved
        if saved is None:
            return
        versions, configured = [state.kept[generation] for generation in state.stack], state.configured
        pinned = dict(state.pinned) if versions and versions[-1].text == state.wanted else {}  # not of what was retired

        def write() -> None:
            sets = [saved.saved_set(v.text, v.specs, v.policy_set, v.loaded_at.timestamp()) for v in versions]
            saved.save(state.name, SavedPool(configured, tuple(sets), clean, pinned))

        self._writing = saved.later(write, state.name)

    async def _written(self) -> None:
        """Returns when what runs is kept, or cannot be."""
        writing = self._writing
        if writing is not None and not writing.cancelled():
            await asyncio.wrap_future(writing)

    async def rollback(self, pool: str, generation: int | None = None) -> Version:
        """Puts an earlier set back, under a new generation: the one before, or ``generation``."""
        state = self.pool(pool)
        async with self._lock:
            target = _rollback_target(state, generation)
            old = state.kept[target]
            try:
                policy_set = self._load_here(state, old.specs, {})
            except PolicyRefusedError as error:
                self._refused(state, old.text, "rollback", str(error))
                raise
            version = Version(policy_set, old.text, old.specs, "rollback", datetime.now(UTC), old.folder)
            self._follow(state, old.text, "rollback", self._base)
            self._replace(state, version, state.stack[: state.stack.index(target)])
            await self._written()
            _still_runs(state, version)
            return version

    def rekey(self, pool: str) -> None:
        """The scheduling policy is asked anew for the key of everything that is held."""
        name = self.pool(pool).name
        self._submit(QueueRekeyed(self._clock(), name))
        log.info("queue ordered anew", extra={"pool": name})

    def retired(self, command: PolicySetRetired) -> None:
        """The guard put an older set back by itself: the books follow."""
        state = self.pools[command.pool]
        state.went_back_to(command.restored)
        message = f"generation {command.generation} was retired: {command.reason}"
        state.last_error = {"message": message, "at": _timestamp(), "specs": state.wanted}
        state.log.append({"at": _timestamp(), "origin": "guard", "ok": False, "message": message})
        self._metrics.policy_swapped(command.pool, "guard", True)
        log.error("policy set retired", extra={"pool": command.pool, "restored": command.restored, "reason": message})
        self._save(state)

    async def follow_files(self) -> None:
        """Runs for ever: a followed file that changes is loaded as if by hand."""
        while self.settings.watch_files:
            self._files_changed.clear()
            folders = {path.parent for state in self.pools.values() for path in state.files}
            if not folders:
                await self._files_changed.wait()
                continue
            try:
                await self._load_changed()
                async for _ in awatch(*folders, recursive=False, debounce=200, stop_event=self._files_changed):
                    await self._load_changed()
            except Exception:  # the task boundary: the streams go on
                log.exception("policy files cannot be followed; trying on")
                await asyncio.sleep(1.0)

    async def _load_changed(self) -> None:
        for state in self.pools.values():
            versions = {path: _file_hash(path) for path in state.files}
            if versions == state.files:
                continue
            state.files = versions
            try:
                await self.load(state.name, state.wanted, "file", sha256=state.pinned)
            except PolicyRefusedError:
                continue  # logged, counted and shown; the file is still followed

    async def _prepare(
        self,
        state: PoolPolicies,
        text: str,
        specs: Sequence[PolicySpec],
        origin: Origin,
        sha256: Mapping[str, str] = MappingProxyType({}),
    ) -> Version:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{state.name}-", dir=self._copies))
            with ExitStack() as undo:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                copies, originals = copied(specs, folder, sha256)
                if origin != "restored" and (originals or origin != "start"):  # what was kept or shipped has passed it
                    await check(copies, self.settings, originals)
                policy_set = self._load_here(state, copies, originals)
                undo.pop_all()
        except OSError as error:
            raise PolicyRefusedError(f"the set cannot be copied and checked now: {error}") from None
        return Version(policy_set, text, copies, origin, datetime.now(UTC), folder)

    def _load_here(self, state: PoolPolicies, specs: Sequence[PolicySpec], originals: Mapping[str, str]) -> PolicySet:
        return load_copies(specs, self.settings.seed, state.take_generation(), originals)

    def _replace(self, state: PoolPolicies, version: Version, below: list[int], *, save: bool = True) -> None:
        state.keep(version, below)
        state.last_error = None
        state.log.append({"at": _timestamp(), "ok": True, **version.describe()})
        self._metrics.policy_swapped(state.name, version.origin, True)
        facts = {"pool": state.name, "generation": version.generation, "specs": version.text, "origin": version.origin}
        log.info("policy set replaced", extra=facts)
        self._submit(PolicySetReplaced(self._clock(), state.name, version.policy_set))  # may retire it at once
        if save:
            self._save(state)

    def _refused(self, state: PoolPolicies, text: str, origin: Origin, message: str) -> None:
        state.last_error = {"message": message, "at": _timestamp(), "specs": text}
        state.log.append({"at": _timestamp(), "origin": origin, "ok": False, "specs": text, "message": message})
        self._metrics.policy_swapped(state.name, origin, False)
        log.error("policy set refused", extra={"pool": state.name, "specs": text, "origin": origin, "reason": message})

    def _follow(
        self,
        state: PoolPolicies,
        text: str,
        origin: Origin,
        base: Path,
        pinned: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        state.pinned = pinned
        files = {Path(spec.source) for spec in parse(text, base) if spec.source.endswith(".py")}
        state.wanted = text
        if files != set(state.files):
            self._files_changed.set()
        if origin != "file" or files != set(state.files):
            state.files = {path: _file_hash(path) for path in files}


def _still_runs(state: PoolPolicies, version: Version) -> None:
    """PolicyRefusedError when its first calls, while it was put in place, retired it."""
    if version.generation not in state.stack:
        raise PolicyRefusedError((state.last_error or {}).get("message", "the set was retired at once"))


def _rollback_target(state: PoolPolicies, generation: int | None) -> int:
    earlier = state.stack[:-1]
    if not earlier:
        raise PolicyRefusedError(f"pool {state.name} has no earlier policy set to roll back to")
    if generation is not None and generation not in earlier:
        kept = ", ".join(map(str, earlier))
        raise PolicyRefusedError(f"pool {state.name} does not keep generation {generation}; it keeps {kept}")
    return earlier[-1] if generation is None else generation


def _file_hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_source(path)).hexdigest()
    except OSError:
        return None


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
