"""A process of its own for a gateway that runs a policy nobody has promoted, and what that process cannot do.

A replay needs the whole gateway: sockets, files, a check in another process. So the short list of system calls that
suffices for a simulation (``designer.confinement``) is out of reach. Instead: an environment of a few names, a home of
its own that is gone afterwards, resource limits, and on Linux landlock (files by name, TCP ports by number, no signals
to others) and a seccomp filter that refuses every socket but TCP's and what reaches into other processes or the
kernel. A launcher stays above the gateway, adopts what leaves its process group, and buries all of it at the end,
whichever way that comes; it ends when the designer does.

What this does not do is in ``docs/designer.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from designer.confinement import adopt_orphans, bury_orphans
from designer.syscall_filter import gateway_filter

KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH")
"""Of the environment; everything else is not handed on: no key, no token, no proxy."""
STOP_SECONDS = 15.0
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/proc", "/sys/devices/system/cpu", "/nix/store", "/opt/homebrew")
_SETTINGS = tuple(
    f"/etc/{name}"
    for name in (
        *("ssl", "pki", "localtime", "timezone", "hosts", "nsswitch.conf", "ld.so.cache", "ld.so.conf.d"),
        *("mime.types", "httpd/mime.types", "httpd/conf/mime.types", "apache/mime.types", "apache2/mime.types"),
    )
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH, _NET_PORT = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_BIND, _CONNECT = 1 << 0, 1 << 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""By landlock's version how many rights on files it knows; 16 in later ones."""
_LAYERS_FILE = "layers.json"


@dataclass(frozen=True, slots=True)
class Cage:
    """What one process may do."""

    home: str
    """Read and written; home, temporary and state folder of the process."""
    read: tuple[str, ...] = ()
    """Files and folders it may read besides the installation."""
    bind: tuple[int, ...] = ()
    """TCP ports it may listen on."""
    connect: tuple[int, ...] = ()
    """TCP ports it may reach: of any address, as nothing here can tell addresses apart."""
    cpu_seconds: int = 3600
    memory_bytes: int = 8 << 30
    """Address space."""
    file_bytes: int = 256 << 20
    open_files: int = 16_384
    more_processes: int = 256
    """Beyond those that the user has; no limit for root."""


@contextlib.contextmanager
def caged(cage: Cage, module: str, arguments: Sequence[str], out: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m MODULE ARGUMENTS`` in a cage; afterwards nothing of it is left."""
    Path(cage.home).mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "designer.cage", json.dumps(asdict(cage)), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=environment(cage),
        start_new_session=True,
        cwd=cage.home,
    )
    try:
        yield process
    finally:
        _end(process)


def environment(cage: Cage) -> dict[str, str]:
    """Of the process."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    places = {"HOME": cage.home, "TMPDIR": cage.home, "XDG_STATE_HOME": cage.home}
    return {**kept, **places, "PATH": "/usr/bin:/bin"}


def layers_of(cage: Cage) -> tuple[str, ...]:
    """What was in force, once the process has begun; empty before."""
    try:
        return tuple(json.loads((Path(cage.home) / _LAYERS_FILE).read_text()))
    except (OSError, ValueError):
        return ()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the launcher, which ends the rest; SIGKILL to the group in any case."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- the launcher ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Launcher:
    """Above the caged process; it runs no code of a policy."""

    child: int = 0
    asked: list[int] = field(default_factory=list)

    def heard(self, number: int, frame: FrameType | None) -> None:
        """The first SIGTERM is handed on; after ``STOP_SECONDS``, or at the second, the child is killed."""
        self.asked.append(number)
        kind = signal.SIGTERM if len(self.asked) == 1 else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, kind)
        signal.alarm(max(1, int(STOP_SECONDS) - 3))


def main(arguments: Sequence[str]) -> int:
    """``python -m designer.cage CAGE MODULE ARGUMENTS…``: the status of the caged process."""
    given: dict[str, Any] = json.loads(arguments[0])
    cage = Cage(**given)
    _die_with_parent(signal.SIGTERM)
    adopt_orphans()
    launcher = _Launcher()
    launcher.child = os.fork()
    if launcher.child == 0:
        _become(cage, arguments[1], arguments[2:])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, launcher.heard)
    try:
        _, status = os.waitpid(launcher.child, 0)
    finally:
        bury_orphans()
    return os.waitstatus_to_exitcode(status) & 0xFF


def _become(cage: Cage, module: str, arguments: Sequence[str]) -> None:
    """Give up what the cage does not allow, and become the module; never returns."""
    try:
        _die_with_parent(signal.SIGKILL)
        layers = fence(cage)
        (Path(cage.home) / _LAYERS_FILE).write_text(json.dumps(layers))
        words = [sys.executable, "-I", "-m", module, *arguments]
        os.execve(sys.executable, words, environment(cage))  # noqa: S606 - no shell is wanted
    except BaseException as error:  # noqa: BLE001 - whatever it was, this process must not go on as the launcher
        os.write(2, f"the cage could not be made: {error!r}\n".encode())
    finally:
        os._exit(70)


def _die_with_parent(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


# -- the fence ------------------------------------------------------------------------------------------------------


def fence(cage: Cage) -> list[str]:
    """Give it up, for good, and for everything this process starts; the layers that are in force."""
    _limit(cage)
    layers = ["process group", "rlimits", "own environment and home"]
    if sys.platform != "linux":
        return layers
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return layers
    layers.append("no new privileges")
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version >= 1 and _landlock(libc.syscall, cage, version):
        layers.append("landlock: files" + (", TCP ports" if version >= 4 else "") + (", signals" * (version >= 6)))
    if _seccomp(libc.prctl):
        layers.append("seccomp: TCP sockets only")
    return layers


def _limit(cage: Cage) -> None:
    _lower(resource.RLIMIT_CPU, cage.cpu_seconds)
    _lower(resource.RLIMIT_AS, cage.memory_bytes)
    _lower(resource.RLIMIT_FSIZE, cage.file_bytes)
    _lower(resource.RLIMIT_NOFILE, cage.open_files)
    _lower(resource.RLIMIT_CORE, 0)
    if (mine := _num_of_user()) is not None:
        _lower(resource.RLIMIT_NPROC, mine + cage.more_processes)


def _lower(which: int, value: int) -> None:
    ceiling = resource.getrlimit(which)[1]
    value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
    resource.setrlimit(which, (value, value))


def _num_of_user() -> int | None:
    """Threads of this user's processes; None where that cannot be counted."""
    count, proc = 0, Path("/proc")
    try:
        for entry in proc.iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                    count += sum(1 for _ in (entry / "task").iterdir())
    except OSError:
        return None
    return count or None


def _landlock(syscall: ctypes._NamedFuncPointer, cage: Cage, version: int) -> bool:
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("QQQ", files, _BIND | _CONNECT if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    for path, rights in _allowed(cage):
        _allow_path(syscall, rules, path, rights & files)
    for port, right in (*((p, _BIND) for p in cage.bind), *((p, _CONNECT) for p in cage.connect)):
        if version >= 4:
            syscall(_ADD_RULE, rules, _NET_PORT, struct.pack("QQ", right, port), 0)
    done = syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return bool(done)


def _allowed(cage: Cage) -> Iterator[tuple[Path, int]]:
    """Paths with rights; of a folder for all that is in it."""
    everything = (1 << 16) - 1
    yield Path(cage.home), everything & ~_EXECUTE
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent.parent)}:
        yield Path(prefix), _READ | _EXECUTE
    yield from ((Path(path), _READ | _EXECUTE) for path in _SYSTEM)
    yield from ((Path(path), _READ) for path in (*_SETTINGS, *cage.read))
    yield from ((Path(path), _READ_FILE | _WRITE_FILE) for path in _DEVICES)
    yield from _packages()


def _packages() -> Iterator[tuple[Path, int]]:
    """Of an installation in place: the packages that a gateway is made of, and the names beside them, not their
    contents: runs with their ledgers may be there."""
    for name in ("gateway", "policies"):
        spec = find_spec(name)
        for place in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
            yield place, _READ
            yield place.parent, _READ_DIR
            yield from ((compiled, _READ_FILE) for compiled in place.parent.glob("*__mypyc*.so"))


def _allow_path(syscall: ctypes._NamedFuncPointer, rules: int, path: Path, rights: int) -> None:
    """What is not there needs no rule."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = rights if path.is_dir() else rights & _OF_FILES
        if syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock takes no rule for {path}")
    finally:
        os.close(fd)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def _seccomp(prctl: ctypes._NamedFuncPointer) -> bool:
    program = gateway_filter(platform.machine())
    if program is None:
        return False
    filtered = _Filter(len(program) // 8, program)
    return bool(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0) == 0)


def ports_of(urls: Iterable[str]) -> tuple[int, ...]:
    """That a gateway with these workers has to reach."""
    schemes: Mapping[str, int] = {"http": 80, "https": 443}
    parts = [urlsplit(url) for url in urls]
    return tuple(sorted({part.port or schemes.get(part.scheme, 80) for part in parts}))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
