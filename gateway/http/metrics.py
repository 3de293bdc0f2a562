"""What the data plane counts. Methods are bound once and called on the event loop: they must be quick and not raise."""

from __future__ import annotations

from typing import Literal, Protocol

Ending = Literal["completed", "failed", "rejected", "cancelled"]
"""``completed``, the worker's whole answer reached the client (its own 4xx included); ``failed``, broken after every
attempt or in the middle; ``rejected``, turned away by the gateway or by every worker tried; ``cancelled``, the client
left."""


class DataPlaneMetrics(Protocol):
    def request_finished(
        self,
        path: str,
        model: str,
        tenant: str,
        worker_id: str,
        status: int,
        ending: Ending,
        queue_seconds: float,
        ttft_seconds: float | None,
        e2e_seconds: float,
        num_prompt_tokens: int | None,
        num_output_tokens: int,
    ) -> None:
        """One request that a model answers is over, exactly once each.

        ``worker_id`` is the last one tried, empty if none was; ``status`` is what the client was sent, 0 if nothing.
        ``queue_seconds`` is arrival to the last dispatch (to the end, if there was none). ``ttft_seconds``, arrival to
        the first content token of a stream, None where none was seen. ``num_prompt_tokens`` is None unless the worker
        said.
        """
        ...

    def request_retried(self, worker_id: str, reason: str) -> None:
        """A dispatch ended before its first byte reached the client. ``reason``: one word (``connect``, ``status_503``,
        ``first_event_503``, ``broken``, ``timeout`` …)."""
        ...

    def request_refused(self, status: int) -> None:
        """Answered by the gateway before it was a request to a model: malformed, too large, administrative."""
        ...


class NoMetrics:
    """Counts nothing."""

    def request_finished(
        self,
        path: str,
        model: str,
        tenant: str,
        worker_id: str,
        status: int,
        ending: Ending,
        queue_seconds: float,
        ttft_seconds: float | None,
        e2e_seconds: float,
        num_prompt_tokens: int | None,
        num_output_tokens: int,
    ) -> None:
        return

    def request_retried(self, worker_id: str, reason: str) -> None:
        return

    def request_refused(self, status: int) -> None:
        return
