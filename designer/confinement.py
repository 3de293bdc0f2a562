"""What a process gives up, for good, before it runs a candidate: each layer is real on the machine it is reported on.

Everywhere: resource limits, an empty environment, no file descriptor but the given ones. On Linux besides: no new
privileges, death with the parent, landlock (no file, no socket) where the kernel has it, and a seccomp filter that
allows a short list of system calls and answers EPERM to the rest: no fork, no exec, no socket, no signal, no open.
Where bubblewrap is installed and user namespaces are allowed, the warm parents run in namespaces of their own as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_PR_SET_CHILD_SUBREAPER = 36
_MOST_ORPHANS = 10_000
_MOST_DESCRIPTORS = 1 << 20
"""Where no folder lists those that are open."""
_BUBBLEWRAP = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent"),
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
)
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM = 1

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SYSCALLS = {
    "x86_64": (
        *(0, 1, 3, 5, 8),  # read write close fstat lseek
        *(9, 10, 11, 12, 25, 28),  # mmap mprotect munmap brk mremap madvise
        *(13, 14, 15, 131),  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
        *(17, 19, 20),  # pread64 readv writev
        *(24, 39, 60, 186, 231),  # sched_yield getpid exit gettid exit_group
        *(96, 98, 228),  # gettimeofday getrusage clock_gettime
        *(202, 273, 318, 334),  # futex set_robust_list getrandom rseq
    ),
    "aarch64": (
        *(63, 64, 57, 80, 62),  # read write close fstat lseek
        *(222, 226, 215, 214, 216, 233),  # mmap mprotect munmap brk mremap madvise
        *(134, 135, 139, 132),  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
        *(67, 65, 66),  # pread64 readv writev
        *(124, 172, 93, 178, 94),  # sched_yield getpid exit gettid exit_group
        *(169, 165, 113),  # gettimeofday getrusage clock_gettime
        *(98, 99, 278, 293),  # futex set_robust_list getrandom rseq
    ),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process that runs a candidate."""

    cpu_seconds: float = 60.0
    """Processor time; the wall clock is the parent's to watch."""
    memory_bytes: int = 1 << 30
    """Address space beyond what the process has when it is confined."""
    open_files: int = 16


def confine(limits: Limits, keep: Sequence[int]) -> tuple[str, ...]:
    """Give up everything but ``keep`` (file descriptors). Call it in a child that has but one thread.

    Returns:
        The layers that are in force from here on, for the report.
    """
    os.environ.clear()
    _close_all_but(keep)
    _limit_resources(limits)
    layers = ["process group", "rlimits", "empty environment"]
    if sys.platform == "linux":
        layers += _linux_layers()
    return tuple(layers)


def adopt_orphans() -> None:
    """Linux: from here on, what a child of this process leaves behind becomes a child of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury_orphans() -> None:
    """Kill and wait for every child there is: what left its process group, where nothing forbade it to.

    A process that forks faster than it is killed is out of reach; seccomp, or bubblewrap's namespace, forbids it.
    """
    for _ in range(_MOST_ORPHANS):
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                _kill_children()
                time.sleep(0.001)
        except ChildProcessError:
            return


def _kill_children() -> None:
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    for pid in own.read_text().split() if own.exists() else ():
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGKILL)


def bubblewrap() -> list[str]:
    """The start of a command that runs the rest of it with namespaces of its own, where that works; else empty.

    Nothing can be written, there is no network, no other process can be seen, and none outlives the first.
    """
    program = shutil.which("bwrap") if sys.platform == "linux" else None
    if program is None:
        return []
    command = [program, *_BUBBLEWRAP]
    done = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return command if done.returncode == 0 else []


def _limit_resources(limits: Limits) -> None:
    cpu = max(1, round(limits.cpu_seconds))
    _lower(resource.RLIMIT_CPU, cpu, cpu + 1)
    _lower(resource.RLIMIT_AS, _address_space() + limits.memory_bytes)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_NPROC, 0)
    _lower(resource.RLIMIT_CORE, 0)


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30  # no /proc on this system: about what NumPy and SciPy take


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    """To the value, or to what is allowed already if that is less; never up."""
    ceiling = resource.getrlimit(which)[1]
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))


def _close_all_but(keep: Sequence[int]) -> None:
    """Standard streams go to nowhere, the rest is closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd not in keep:
            os.dup2(null, fd)
    for fd in _open_descriptors():
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the one by which they were listed
                os.close(fd)


def _open_descriptors() -> list[int]:
    """All there are, whatever their numbers: a limit may have been lowered after they were opened."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return [int(path.name) for path in Path(folder).iterdir()]
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return list(range(_MOST_DESCRIPTORS if highest == resource.RLIM_INFINITY else min(highest, _MOST_DESCRIPTORS)))


def _linux_layers() -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    prctl, syscall = libc.prctl, libc.syscall
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    layers = ["no new privileges"]
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if _landlock(syscall):
        layers.append("landlock")
    if _seccomp(prctl):
        layers.append("seccomp")
    return layers


def _landlock(syscall: ctypes._NamedFuncPointer) -> bool:
    """A rule set that handles everything the kernel knows of and allows none of it."""
    abi = syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    done = syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(done)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def _seccomp(prctl: ctypes._NamedFuncPointer) -> bool:
    machine = platform.machine()
    if machine not in _SYSCALLS:
        return False
    program = _bpf(_AUDIT_ARCH[machine], _SYSCALLS[machine])
    filtered = _Filter(len(program) // 8, program)
    return bool(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0) == 0)


def _bpf(arch: int, allowed: Sequence[int]) -> bytes:
    """Classic BPF over ``struct seccomp_data``: the wrong architecture is killed, what is listed passes, the rest
    gets EPERM. x32 calls have a high bit set, so they are in no list."""
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, arch), (answer, 0, 0, _RET_KILL), (load, 0, 0, 0)]
    for left, number in enumerate(reversed(allowed)):
        steps.insert(4, (equal, left + 1, 0, number))
    steps += [(answer, 0, 0, _RET_ERRNO | _EPERM), (answer, 0, 0, _RET_ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
