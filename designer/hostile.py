"""Planted candidates that want no better score: they would stop the run, break the pool, or leave something behind."""

from __future__ import annotations

from collections.abc import Iterator

from designer.cheats import Cheat, changed_key, changed_route

MARK = "ranvier-planted"
"""Begins the name of every file that a candidate tries to leave."""
FOLDERS = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - where it tries
_NUMBERS = {"userfaultfd": 323, "io_uring_setup": 425, "ptrace": 101, "process_vm_writev": 311, "memfd_create": 319}
"""System calls of x86-64; elsewhere they are others, which are refused alike."""


def _time() -> Iterator[Cheat]:
    yield changed_route("endless loop", "burns the budget", "while True:\n    pass")
    yield changed_route(
        "endless at import", "burns the budget before it is a policy", "pass", before="while True:\n    pass"
    )
    yield changed_route("sleeps", "waits for ever", "import time\ntime.sleep(1e6)")
    yield changed_route("sleeps by poll", "waits by another call", "import select\nselect.poll().poll(10 ** 9)")
    lock = "import _thread\nlock = _thread.allocate_lock()\nlock.acquire()\nlock.acquire()"
    yield changed_route("waits for itself", "takes a lock twice", lock)
    yield changed_route("endless in C", "loops where no signal is heard", "sum(iter(int, 1))")
    yield changed_route("long sum in C", "the same, with an end", "sum(range(10 ** 12))")
    yield changed_route("huge power", "one long operation", "return candidates[pow(7, 7 ** 12) % 1]")
    yield changed_route("regular expression", "backtracks for ever", "import re\nre.match('(a+)+$', 'a' * 64 + 'b')")
    yield changed_route(
        "swallows all",
        "catches whatever would stop it",
        "while True:\n    try:\n        pass\n    except BaseException:\n        pass",
    )
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"
    yield changed_route("deaf to the limit", "ignores the signal of the processor limit", deaf)


def _space() -> Iterator[Cheat]:
    yield changed_route("100 GB", "allocates until the machine swaps", "bytearray(100 << 30)")
    yield changed_route(
        "bit by bit", "the same in pieces, kept", "Policy.kept = [bytearray(64 << 20) for _ in range(1600)]"
    )
    yield changed_route("long text", "multiplies a text", "'x' * (1 << 40)")
    yield changed_route("deep recursion", "breaks the stack", "def deeper(n):\n    return deeper(n + 1)\ndeeper(0)")
    nest = """
    import sys
    sys.setrecursionlimit(1 << 30)
    nest = []
    for _ in range(200_000):
        nest = [nest]
    repr(nest)
    """
    yield changed_route("deep recursion in C", "breaks the stack of C", nest)
    flood = "import os\nfor fd in (1, 2):\n    for _ in range(64):\n        os.write(fd, b'x' * 65536)"
    yield changed_route("floods the output", "writes eight megabytes to its standard streams, each time", flood)
    answer = """
    import os
    for _ in range(4096):
        for fd in range(3, 16):
            try:
                os.write(fd, b"[" * 65536)
            except OSError:
                pass
    """
    yield changed_route("floods the answer", "writes for ever where its result goes", answer)
    nested = """
    import os
    for fd in range(3, 16):
        try:
            os.write(fd, b"[" * 10 ** 6 + b"]" * 10 ** 6)
        except OSError:
            pass
    os._exit(0)
    """
    yield changed_route("nested answer", "answers with a million brackets", nested)


def _exceptions() -> Iterator[Cheat]:
    for name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"):
        yield changed_route(f"raises {name}", "an exception that means something else", f"raise {name}('no')")
    silent = (
        "class Silent(BaseException):\n    def __str__(self):\n        raise SystemExit(0)\n    __repr__ = __str__\n"
    )
    yield changed_route("exception without a text", "raises when it is asked for its text", "raise Silent()", silent)
    nameless = (
        "class Meta(type):\n    @property\n    def __name__(cls):\n        raise SystemExit(0)\n\n"
        "class Nameless(Exception, metaclass=Meta):\n    pass\n"
    )
    yield changed_route(
        "exception without a name", "raises when it is asked for its class", "raise Nameless()", nameless
    )
    text = "raise ValueError('\\ud800\\x00\\x1b]0;owned\\x07' * 9999)"
    yield changed_route("unspeakable text", "an error that no terminal and no database can take", text)


_EVIL = """
class Evil:
    def __eq__(self, other):
        return True

    def __lt__(self, other):
        raise SystemExit(0)

    __gt__ = __le__ = __lt__

    def __hash__(self):
        raise SystemExit(0)

    def __bool__(self):
        raise SystemExit(0)

    def __index__(self):
        raise SystemExit(0)

    __iter__ = __len__ = __float__ = __index__
"""


def _answers() -> Iterator[Cheat]:
    yield changed_route("equal to anything", "answers with what equals every candidate", "return Evil()", _EVIL)
    yield changed_key("cannot be compared", "a key that raises when it is compared", "Evil()", _EVIL)
    yield changed_key("cannot be compared, in a tuple", "the same where it is not seen at once", "(1, Evil())", _EVIL)
    yield changed_key("NaN", "a key that is in no order", "float('nan')")
    yield changed_key("huge key", "a number of a million digits", "1 << (1 << 22)")


def _kernel() -> Iterator[Cheat]:
    yield changed_route("forks", "lives on in a child", "import os\nwhile True:\n    os.fork()")
    double = """
    import os
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                pass
        os._exit(0)
    """
    yield changed_route("double fork", "lives on in a session of its own", double)
    yield changed_route("leaves its group", "goes where a kill of the group does not reach", "import os\nos.setsid()")
    yield changed_route(
        "many threads",
        "starts threads until there are no more",
        "import _thread\nwhile True:\n    _thread.start_new_thread(print, ())",
    )
    yield changed_route(
        "signals its parent", "kills the group of its warm parent", "import os\nos.killpg(os.getpgid(os.getppid()), 9)"
    )
    yield changed_route(
        "abstract socket", "listens where no file is", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0ranvier')"
    )
    yield changed_route(
        "netlink", "asks the kernel for interfaces", "import socket\nsocket.socket(16, socket.SOCK_RAW, 0)"
    )
    for name, number in _NUMBERS.items():
        call = f"""
        import ctypes
        if ctypes.CDLL(None, use_errno=True).syscall({number}, 0, 0, 0, 0, 0, 0) == -1:
            raise PermissionError(ctypes.get_errno(), "Operation not permitted")
        """
        yield changed_route(name, "a system call by its number", call)
    yield changed_route("its own memory", "writes to /proc/self/mem", "open('/proc/self/mem', 'r+b').write(b'x')")
    yield changed_route(
        "others' memory",
        "reads what its parent was started with",
        "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
    )
    for folder in FOLDERS:
        yield changed_route(f"file in {folder}", "leaves a file", f"open('{folder}/{MARK}', 'w').write('x')")
    yield changed_route(
        "raises its limits",
        "takes more than it is given",
        "import resource\nwhile True:\n    resource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
    )
    yield changed_route("uses up descriptors", "copies its standard output", "import os\nwhile True:\n    os.dup(1)")
    yield changed_route("an alarm", "has a signal sent later", "import signal\nsignal.alarm(1)")
    yield changed_route("closes everything", "and goes on without a way back", "import os\nos.closerange(0, 64)")


HOSTILE: tuple[Cheat, ...] = (*_time(), *_space(), *_exceptions(), *_answers(), *_kernel())
