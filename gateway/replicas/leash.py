"""Runs a command that ends when the gateway does, however that ends: ``python -m gateway.replicas.leash PID COMMAND…``.

On Linux the kernel sends SIGTERM when the parent dies (prctl(2), PR_SET_PDEATHSIG, kept over exec); elsewhere
the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("the gateway ended while this command was being started")
    try:
        os.execvp(command[0], command)  # noqa: S606 the command is the operator's, from the configuration
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
