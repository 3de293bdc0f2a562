"""Policy sets from specs to the dispatcher, and back: load, roll back, follow files.

A swap is: copy the exact bytes aside, check the copy in a process that can be killed, load the same copy here,
replace between two events. Whatever fails leaves the running set as it is and the reason visible. No code
runs in this process before it has passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from watchfiles import awatch

from gateway.config import PolicySection
from gateway.core.commands import PolicySetRetired
from gateway.core.events import Event, PolicySetReplaced
from gateway.core.policy_set import PolicySet
from gateway.errors import PolicyRefusedError, one_line
from policies.loader import PolicyLoadError, PolicySpec, load_policies, parse_specs, resolve

log = logging.getLogger(__name__)

Origin = Literal["start", "load", "file", "reload", "rollback", "guard"]


class SwapMetrics(Protocol):
    def policy_swapped(self, pool: str, origin: Origin, ok: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Version:
    """A set that ran, with the copy of its bytes that a rollback loads again."""

    policy_set: PolicySet
    text: str
    """The specs as they were asked for."""
    specs: tuple[PolicySpec, ...]
    """The same, pointing at the copies."""
    origin: Origin
    loaded_at: datetime
    folder: Path
    """Holds the copies."""

    @property
    def generation(self) -> int:
        return self.policy_set.generation

    def describe(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "specs": self.text,
            "origin": self.origin,
            "loaded_at": self.loaded_at.isoformat(timespec="milliseconds"),
            "slots": slots_of(self.policy_set),
        }


@dataclass(slots=True)
class PoolPolicies:
    """The versions of one pool that are kept, and which of them a rollback goes back through."""

    name: str
    max_kept: int
    kept: dict[int, Version] = field(default_factory=dict)
    """By generation, in the order they were loaded."""
    stack: list[int] = field(default_factory=list)
    """Generations; the last runs, the one before is what a rollback puts back. Empty: the built-in runs."""
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=64))
    next_generation: int = 1
    wanted: str = ""
    """The specs whose files are followed."""
    files: dict[Path, str | None] = field(default_factory=dict)
    """Followed files with the hash last tried; None: it could not be read."""
    last_error: dict[str, str] | None = None

    def take_generation(self) -> int:
        self.next_generation += 1
        return self.next_generation - 1

    def keep(self, version: Version, below: list[int]) -> None:
        """``version`` runs from here on, over ``below``; the oldest versions and their copies go."""
        self.kept[version.generation] = version
        self.stack = [*below, version.generation]
        while len(self.kept) > self.max_kept:
            old = self.kept.pop(next(iter(self.kept)))
            self.stack = [generation for generation in self.stack if generation != old.generation]
            if all(v.folder != old.folder for v in self.kept.values()):
                shutil.rmtree(old.folder, ignore_errors=True)

    def went_back_to(self, generation: int) -> None:
        """The guard restored ``generation`` by itself; one that is not kept is the built-in."""
        if generation in self.stack:
            self.stack = self.stack[: self.stack.index(generation) + 1]
        else:
            self.stack = [generation] if generation in self.kept else []

    def describe(self) -> dict[str, Any]:
        return {
            "pool": self.name,
            "current": self.kept[self.stack[-1]].describe() if self.stack else None,
            "can_roll_back_to": self.stack[-2::-1],
            "followed_files": [str(path) for path in self.files],
            "last_error": self.last_error,
            "log": list(self.log),
        }


def slots_of(policy_set: PolicySet) -> dict[str, Any]:
    """What fills each slot, for people and programs."""
    identities = policy_set.identities.items()
    return {slot: {"policy": i.name, "hash": i.policy_hash, "params": dict(i.params)} for slot, i in identities}


class PolicyFiles:
    """Args:
    submit: takes ``PolicySetReplaced``.
    clock: the runner's monotonic clock, seconds.
    base: relative paths in specs are relative to this folder.
    """

    def __init__(
        self,
        pools: Sequence[str],
        submit: Callable[[Event], None],
        clock: Callable[[], float],
        settings: PolicySection,
        metrics: SwapMetrics,
        base: Path,
    ) -> None:
        self._submit, self._clock, self._settings, self._metrics, self._base = submit, clock, settings, metrics, base
        self._copies = Path(tempfile.mkdtemp(prefix="ranvier-policies-"))
        self._lock = asyncio.Lock()
        self._files_changed = asyncio.Event()
        self.pools = {name: PoolPolicies(name, settings.history) for name in pools}

    def close(self) -> None:
        shutil.rmtree(self._copies, ignore_errors=True)

    def pool(self, name: str) -> PoolPolicies:
        """PolicyRefusedError when there is no such pool."""
        if name not in self.pools:
            raise PolicyRefusedError(f"no pool is called {name!r}; the pools are {', '.join(self.pools)}")
        return self.pools[name]

    async def load(self, pool: str, text: str, origin: Origin = "load", *, base: Path | None = None) -> Version:
        """Checks, loads and swaps in the set ``text``; returns once it decides.

        Raises:
            PolicyRefusedError: one line with the reason; the old set runs on.
        """
        state = self.pool(pool)
        async with self._lock:
            try:
                version = await self._prepare(state, text, origin, base or self._base)
            except PolicyRefusedError as error:
                self._refused(state, text, origin, str(error))
                raise
            self._replace(state, version, state.stack)
            self._follow(state, text, origin, base or self._base)
            return version

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
            self._replace(state, version, state.stack[: state.stack.index(target)])
            self._follow(state, old.text, "rollback", self._base)
            return version

    def retired(self, command: PolicySetRetired) -> None:
        """The guard put an older set back by itself: the books follow."""
        state = self.pools[command.pool]
        state.went_back_to(command.restored)
        message = f"generation {command.generation} was retired: {command.reason}"
        state.last_error = {"message": message, "at": _timestamp(), "specs": state.wanted}
        state.log.append({"at": _timestamp(), "origin": "guard", "ok": False, "message": message})
        self._metrics.policy_swapped(command.pool, "guard", True)
        log.error("policy set retired", extra={"pool": command.pool, "restored": command.restored, "reason": message})

    async def follow_files(self) -> None:
        """Runs for ever: a followed file that changes is loaded as if by hand."""
        while self._settings.watch_files:
            self._files_changed.clear()
            folders = {path.parent for state in self.pools.values() for path in state.files}
            if not folders:
                await self._files_changed.wait()
                continue
            try:
                async for _ in awatch(*folders, recursive=False, debounce=200, stop_event=self._files_changed):
                    await self._load_changed()
            except OSError as error:
                log.warning("policy files cannot be followed; trying on", extra={"error": str(error)})
                await asyncio.sleep(1.0)

    async def _load_changed(self) -> None:
        for state in self.pools.values():
            versions = {path: _file_hash(path) for path in state.files}
            if versions == state.files:
                continue
            state.files = versions
            try:
                await self.load(state.name, state.wanted, "file")
            except PolicyRefusedError:
                continue  # logged, counted and shown; the file is still followed

    async def _prepare(self, state: PoolPolicies, text: str, origin: Origin, base: Path) -> Version:
        specs = parse(text, base)
        folder = Path(tempfile.mkdtemp(prefix=f"{state.name}-", dir=self._copies))
        try:
            copies, originals = copied(specs, folder)
            if originals or origin != "start":  # what ships with the gateway passed the check before it shipped
                await check(copies, self._settings, originals)
            policy_set = self._load_here(state, copies, originals)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Version(policy_set, text, copies, origin, datetime.now(UTC), folder)

    def _load_here(self, state: PoolPolicies, specs: Sequence[PolicySpec], originals: Mapping[str, str]) -> PolicySet:
        return load_copies(specs, self._settings.seed, state.take_generation(), originals)

    def _replace(self, state: PoolPolicies, version: Version, below: list[int]) -> None:
        state.keep(version, below)
        state.last_error = None
        state.log.append({"at": _timestamp(), "ok": True, **version.describe()})
        self._metrics.policy_swapped(state.name, version.origin, True)
        facts = {"pool": state.name, "generation": version.generation, "specs": version.text, "origin": version.origin}
        log.info("policy set replaced", extra=facts)
        self._submit(PolicySetReplaced(self._clock(), state.name, version.policy_set))  # may retire it at once

    def _refused(self, state: PoolPolicies, text: str, origin: Origin, message: str) -> None:
        state.last_error = {"message": message, "at": _timestamp(), "specs": text}
        state.log.append({"at": _timestamp(), "origin": origin, "ok": False, "specs": text, "message": message})
        self._metrics.policy_swapped(state.name, origin, False)
        log.error("policy set refused", extra={"pool": state.name, "specs": text, "origin": origin, "reason": message})

    def _follow(self, state: PoolPolicies, text: str, origin: Origin, base: Path) -> None:
        files = {Path(spec.source) for spec in parse(text, base) if spec.source.endswith(".py")}
        state.wanted = text
        if files != set(state.files):
            self._files_changed.set()
        if origin != "file" or files != set(state.files):
            state.files = {path: _file_hash(path) for path in files}


def _rollback_target(state: PoolPolicies, generation: int | None) -> int:
    earlier = state.stack[:-1]
    if not earlier:
        raise PolicyRefusedError(f"pool {state.name} has no earlier policy set to roll back to")
    if generation is not None and generation not in earlier:
        kept = ", ".join(map(str, earlier))
        raise PolicyRefusedError(f"pool {state.name} does not keep generation {generation}; it keeps {kept}")
    return earlier[-1] if generation is None else generation


def parse(text: str, base: Path) -> tuple[PolicySpec, ...]:
    """The specs of a set with paths made absolute. PolicyRefusedError when the text is not a set of specs."""
    try:
        specs = parse_specs(text)
    except PolicyLoadError as error:
        raise PolicyRefusedError(str(error)) from None
    return tuple(replace(s, source=_absolute(s.source, base)) if s.source.endswith(".py") else s for s in specs)


def _absolute(path: str, base: Path) -> str:
    """Links stay: a mounted ConfigMap's files are links whose targets change."""
    return os.path.normpath(base.absolute() / Path(path).expanduser())


async def check(specs: Sequence[PolicySpec], settings: PolicySection, originals: Mapping[str, str]) -> None:
    """The conformance check in its own process group, killed at its deadline. PolicyRefusedError says what failed."""
    limits = [str(int(settings.check_seconds) + 1), str(settings.check_memory_bytes)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "gateway.policy_check", *limits, *map(spec_text, specs)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        env={},
    )
    try:
        async with asyncio.timeout(settings.check_seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise PolicyRefusedError(f"the check did not end within {settings.check_seconds:g} s") from None
    finally:
        _kill_group(process)
        await process.communicate()  # reaps it and reads its pipes to their ends, so that nothing of it remains
    if process.returncode:
        raise PolicyRefusedError(_in_original_names(_complaint(process.returncode, out, err), originals))


def _complaint(status: int, out: bytes, err: bytes) -> str:
    """The first violation; without one, what the process died of."""
    lines = out.decode(errors="replace").splitlines()
    if status == 1 and lines:
        rest = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        return one_line(lines[0]) + rest
    last = err.decode(errors="replace").splitlines()[-1:]
    cause = signal.Signals(-status).name if status < 0 else f"status {status}"
    return one_line(f"the check ended by {cause}; is it within its limits of time and memory? {' '.join(last)}")


def _kill_group(process: asyncio.subprocess.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def copied(specs: Sequence[PolicySpec], folder: Path) -> tuple[tuple[PolicySpec, ...], dict[str, str]]:
    """Specs that point at private copies, and for each copy's path the original's. Built-ins stay as they are."""
    copies, originals = [], {}
    for index, spec in enumerate(specs):
        if not spec.source.endswith(".py"):
            _resolved(spec.source)
            copies.append(spec)
            continue
        original = _resolved(spec.source)
        copy = folder / str(index) / original.name
        copy.parent.mkdir()
        try:
            copy.write_bytes(original.read_bytes())
        except OSError as error:
            raise PolicyRefusedError(f"{original}: {error.strerror}; name a readable .py file") from None
        copies.append(replace(spec, source=str(copy)))
        originals[str(copy)] = str(original)
    return tuple(copies), originals


def load_copies(specs: Sequence[PolicySpec], seed: int, generation: int, originals: Mapping[str, str]) -> PolicySet:
    """Executes the copies in this process: only after ``check``. PolicyRefusedError as everywhere."""
    try:
        return PolicySet.of(load_policies(specs, seed, generation), generation)
    except PolicyLoadError as error:
        raise PolicyRefusedError(_in_original_names(str(error), originals)) from None


def _resolved(source: str) -> Path:
    try:
        return resolve(source)[0]
    except PolicyLoadError as error:
        raise PolicyRefusedError(str(error)) from None


def _in_original_names(message: str, originals: Mapping[str, str]) -> str:
    for copy, original in originals.items():
        message = message.replace(copy, original)
    return message


def spec_text(spec: PolicySpec) -> str:
    """The spec in its text form."""
    slots = f"@{','.join(spec.slots)}" if spec.slots else ""
    params = ",".join(f"{key}={_param_text(value)}" for key, value in spec.params.items())
    return f"{spec.source}{slots}{':' + params if params else ''}"


def _param_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)


def _file_hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
