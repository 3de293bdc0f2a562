"""The errors an operator meets, each one line that names the fault and the fix, with its exit status."""

from __future__ import annotations


class GatewayError(Exception):
    """``str()`` is one line for a person; ``exit_status`` is what a command ends with."""

    exit_status = 1


class ConfigError(GatewayError):
    """The configuration, from a file or the command line, cannot be used as it is."""

    exit_status = 2


class StartError(GatewayError):
    """The configuration is fine and the gateway still cannot start: a port in use, a mock worker that died."""


class PolicyRefusedError(GatewayError):
    """A policy set did not pass its check or did not load; what ran before runs on."""


class WorkerRefusedError(GatewayError):
    """A worker cannot be added, drained or removed as asked."""


class AdminUnreachableError(GatewayError):
    """No running gateway answers at the admin address."""


def one_line(text: str, limit: int = 500) -> str:
    """``text`` with its line breaks made spaces, cut to ``limit`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
