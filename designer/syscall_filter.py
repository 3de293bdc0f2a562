"""A seccomp filter for a whole gateway: everything passes but what it has no need of and could do harm with.

Refused, with EPERM: every socket but TCP over IPv4 and IPv6 (so no datagram, no netlink, no path around landlock's
rules by multipath TCP or by TCP fast open), reaching into other processes, io_uring (which makes its calls unseen by
any filter), keys, mounts, namespaces, modules, clocks, and the like. ``clone3``, whose flags no filter can see, is
answered with ENOSYS: the C library then takes ``clone``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_RET_ALLOW, _RET_ERRNO, _RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_CLONE3 = 435
_CLONE_NEW = 0x7E020000
"""Flags of ``clone`` for namespaces: mount, cgroup, UTS, IPC, user, process and network."""
_X32 = 0x40000000
_MSG_FASTOPEN = 0x20000000
_AF_INET, _AF_INET6, _SOCK_STREAM, _SOCK_MASK, _TCP = 2, 10, 1, 0xF, 6
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH = 0, 4


@dataclass(frozen=True, slots=True)
class Calls:
    """Numbers of system calls on one architecture."""

    arch: int
    refused: tuple[int, ...]
    socket: int
    clone: int
    with_flags: Mapping[int, int]
    """Those that may open a connection by a flag, with the argument that holds the flags."""


_SINCE_2019 = (
    *(425, 426, 427),  # io_uring_setup, _enter, _register
    *(428, 429, 430, 431, 432, 433, 442),  # open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr
    *(438, 440),  # pidfd_getfd, process_madvise
)
CALLS: Mapping[str, Calls] = {
    "x86_64": Calls(
        arch=0xC000003E,
        refused=(
            *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
            *(165, 166, 155, 161, 308, 272),  # mount, umount2, pivot_root, chroot, setns, unshare
            *(246, 320, 175, 313, 176, 321, 298, 323),  # kexec x2, modules x3, bpf, perf_event_open, userfaultfd
            *(248, 249, 250, 303, 304),  # add_key, request_key, keyctl, name_to_handle_at, open_by_handle_at
            *(169, 167, 168, 163, 179),  # reboot, swapon, swapoff, acct, quotactl
            *(164, 227, 305, 159, 135),  # settimeofday, clock_settime, clock_adjtime, adjtimex, personality
            *(170, 171, 172, 173),  # sethostname, setdomainname, iopl, ioperm
            *_SINCE_2019,
        ),
        socket=41,
        clone=56,
        with_flags={44: 3, 46: 2, 307: 3},  # sendto, sendmsg, sendmmsg
    ),
    "aarch64": Calls(
        arch=0xC00000B7,
        refused=(
            *(117, 270, 271, 272),
            *(40, 39, 41, 51, 268, 97),
            *(104, 294, 105, 273, 106, 280, 241, 282),
            *(217, 218, 219, 264, 265),
            *(142, 224, 225, 89, 60),
            *(170, 112, 266, 171, 92),
            *(161, 162),
            *_SINCE_2019,
        ),
        socket=198,
        clone=220,
        with_flags={206: 3, 211: 2, 269: 3},
    ),
}

_Step = tuple[int, int, str, str]
"""Operation, operand, label if true, label if false; an empty label is the next step."""


def gateway_filter(machine: str) -> bytes | None:
    """As classic BPF over ``struct seccomp_data``; None for an architecture whose numbers are not known here."""
    calls = CALLS.get(machine)
    return None if calls is None else _assembled(_steps(calls))


def _steps(calls: Calls) -> list[_Step | str]:
    """Steps, and labels between them."""
    steps: list[_Step | str] = [
        (_LOAD, _ARCH, "", ""),
        (_JUMP_EQUAL, calls.arch, "", "kill"),
        (_LOAD, _NUMBER, "", ""),
        (_JUMP_AT_LEAST, _X32, "refuse", ""),
        (_JUMP_EQUAL, calls.socket, "socket", ""),
        (_JUMP_EQUAL, calls.clone, "clone", ""),
        (_JUMP_EQUAL, _CLONE3, "unknown", ""),
    ]
    steps += [(_JUMP_EQUAL, number, f"flags {argument}", "") for number, argument in calls.with_flags.items()]
    steps += [(_JUMP_EQUAL, number, "refuse", "") for number in calls.refused]
    steps += [(_RETURN, _RET_ALLOW, "", "")]
    for argument in sorted(set(calls.with_flags.values())):
        steps += [f"flags {argument}", (_LOAD, _argument(argument), "", "")]
        steps += [(_JUMP_ANY_BIT, _MSG_FASTOPEN, "refuse", "allow")]
    return [
        *steps,
        "clone",
        (_LOAD, _argument(0), "", ""),
        (_JUMP_ANY_BIT, _CLONE_NEW, "refuse", "allow"),
        "unknown",
        (_RETURN, _RET_ERRNO | _ENOSYS, "", ""),
        "socket",
        (_LOAD, _argument(0), "", ""),
        (_JUMP_EQUAL, _AF_INET, "kind", ""),
        (_JUMP_EQUAL, _AF_INET6, "kind", "refuse"),
        "kind",
        (_LOAD, _argument(1), "", ""),
        (_AND, _SOCK_MASK, "", ""),
        (_JUMP_EQUAL, _SOCK_STREAM, "", "refuse"),
        (_LOAD, _argument(2), "", ""),
        (_JUMP_EQUAL, 0, "allow", ""),
        (_JUMP_EQUAL, _TCP, "allow", "refuse"),
        "allow",
        (_RETURN, _RET_ALLOW, "", ""),
        "refuse",
        (_RETURN, _RET_ERRNO | _EPERM, "", ""),
        "kill",
        (_RETURN, _RET_KILL, "", ""),
    ]


def _argument(index: int) -> int:
    """Where the lower half of an argument is, on a little-endian machine."""
    return 16 + 8 * index


def _assembled(program: Sequence[_Step | str]) -> bytes:
    places: dict[str, int] = {}
    steps: list[_Step] = []
    for step in program:
        if isinstance(step, str):
            places[step] = len(steps)
        else:
            steps.append(step)

    def distance(label: str, here: int) -> int:
        return places[label] - here - 1 if label else 0

    return b"".join(
        struct.pack("HBBI", code, distance(yes, here), distance(no, here), operand)
        for here, (code, operand, yes, no) in enumerate(steps)
    )
