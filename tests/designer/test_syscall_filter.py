"""The gateway's filter as a program, run by a small interpreter of classic BPF."""

from __future__ import annotations

import struct

import pytest

from designer.syscall_filter import CALLS, gateway_filter

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000


def judged(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    program = gateway_filter(machine)
    assert program is not None
    data = struct.pack("<IIQ6Q", number, CALLS[machine].arch if arch is None else arch, 0, *(*arguments, *[0] * 6)[:6])
    steps, here, value = list(struct.iter_unpack("HBBI", program)), 0, 0
    while True:
        code, yes, no, operand = steps[here]
        here += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                value &= operand
            case 0x06:
                return operand
            case _:
                true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
                here += yes if true else no


@pytest.mark.parametrize("machine", sorted(CALLS))
def test_what_passes_and_what_does_not(machine: str) -> None:
    calls = CALLS[machine]
    socket = calls.socket
    cloexec_nonblock = 0o2004000
    for domain in (2, 10):
        for protocol in (0, 6):
            assert judged(machine, socket, domain, 1 | cloexec_nonblock, protocol) == ALLOW
        assert judged(machine, socket, domain, 2) == REFUSE  # datagrams
        assert judged(machine, socket, domain, 3, 1) == REFUSE  # raw
        assert judged(machine, socket, domain, 1, 262) == REFUSE  # multipath TCP
    assert judged(machine, socket, 1, 1) == REFUSE  # local
    assert judged(machine, socket, 16, 3) == REFUSE  # netlink
    for number, argument in calls.with_flags.items():
        flags = [0] * 6
        assert judged(machine, number, *flags) == ALLOW
        flags[argument] = 0x20000000 | 0x4000
        assert judged(machine, number, *flags) == REFUSE
    for number in calls.refused:
        assert judged(machine, number) == REFUSE
    assert judged(machine, 0) == ALLOW
    assert judged(machine, 0x40000000 | socket, 2, 1) == REFUSE  # another way in for the same calls
    assert judged(machine, 0, arch=0x40000003) == KILL


@pytest.mark.parametrize("machine", sorted(CALLS))
def test_processes_and_threads_may_be_made_and_namespaces_not(machine: str) -> None:
    clone, sigchld, thread = CALLS[machine].clone, 17, 0x3D0F00
    assert judged(machine, clone, 0x01200000 | sigchld) == ALLOW  # what fork asks for
    assert judged(machine, clone, thread) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert judged(machine, clone, flag | sigchld) == REFUSE
    assert judged(machine, 435) == 0x00050026, "ENOSYS: then clone is asked, whose flags can be seen"


def test_numbers_are_listed_once() -> None:
    for calls in CALLS.values():
        assert len(set(calls.refused)) == len(calls.refused)
        assert calls.socket not in calls.refused


def test_an_architecture_without_numbers_has_no_filter() -> None:
    assert gateway_filter("riscv64") is None
