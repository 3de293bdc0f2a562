"""Keeps a policy from stopping the data plane: it measures every call and interrupts one that does not end.

A thread looks every few milliseconds whether the same call is still running and how much CPU time the
main thread has used in it. Past the kill budget it signals the main thread, whose handler raises
``PolicyInterrupted`` inside the policy. CPU time is what counts, so that a machine with too few cores does
not make an innocent policy look guilty; a call that waits instead of computing is cut after ten budgets.

Two rules make it free of races. The handler raises only while a call is running and past its deadline,
so a signal that arrives late does nothing. And it raises only when the innermost Python frame belongs
neither to this file nor to the guard, so the exception always begins inside the policy's own call, where
the guard catches it. The signal is SIGURG, ignored by default and used for the same end by Go's runtime.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from time import monotonic
from types import FrameType, TracebackType
from typing import Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from gateway.core import guard
from gateway.core.guard import PolicyInterrupted

_SIGNAL = signal.SIGURG
_LOOKS_IN_A_KILL = 4
_WAITING_FACTOR = 10
_TRUSTED_FILES = frozenset({__file__, guard.__file__})


class Watchdog:
    """The core guard's ``Watch``. Made and entered on the main thread, where policies run.

    Args:
        budget_seconds: a call that took longer is an overrun.
        kill_seconds: CPU seconds after which a call is interrupted; at least ``budget_seconds``.
    """

    def __init__(self, budget_seconds: float = 0.005, kill_seconds: float = 0.05) -> None:
        self.reconfigure(budget_seconds, kill_seconds)
        self._started = 0.0
        self._running = self._overran = False
        self._condemned = 0.0
        """``_started`` of the call the thread found guilty; compared by the handler."""
        self._stopped = False
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="policy-watchdog", daemon=True)
        self.num_calls = 0
        self.num_interrupts = 0
        self.total_seconds = 0.0
        """In policy calls."""
        self.longest_seconds = 0.0

    def reconfigure(self, budget_seconds: float, kill_seconds: float) -> None:
        """From the next call on."""
        self._budget = budget_seconds
        self._kill = kill_seconds
        self._poll = kill_seconds / _LOOKS_IN_A_KILL

    def enter(self) -> None:
        self._started = monotonic()
        self._running = True

    def exit(self) -> bool:
        """True when the call overran its budget. A second exit of one call changes nothing."""
        if not self._running:
            return self._overran
        self._running = False
        seconds = monotonic() - self._started
        self.num_calls += 1
        self.total_seconds += seconds
        if seconds > self.longest_seconds:
            self.longest_seconds = seconds
        self._overran = seconds > self._budget
        return self._overran

    def collect(self) -> Iterable[Metric]:
        """For the metrics page."""
        calls = SummaryMetricFamily("ranvier_policy_call_seconds", "Calls of policies, all pools.")
        calls.add_metric([], self.num_calls, self.total_seconds)
        yield calls
        yield GaugeMetricFamily("ranvier_policy_call_longest_seconds", "Since the start.", self.longest_seconds)
        yield CounterMetricFamily("ranvier_policy_interrupts", "Calls that had to be interrupted.", self.num_interrupts)

    def __enter__(self) -> Self:
        self._previous = signal.signal(_SIGNAL, self._on_signal)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()
        signal.signal(_SIGNAL, self._previous)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._running or self._condemned != self._started or frame is None:
            return
        if frame.f_code.co_filename in _TRUSTED_FILES:
            return
        self.num_interrupts += 1
        raise PolicyInterrupted(f"interrupted after {self._kill:g} s of CPU time")

    def _watch(self) -> None:
        """The thread: signals again at every look while a condemned call goes on, lest it swallow the first."""
        clock = time.pthread_getcpuclockid(self._main)
        seen, cpu_at_sight, looks = 0.0, 0.0, 0
        while not self._stopped:
            time.sleep(self._poll)
            started = self._started
            if not self._running:
                continue
            if started != seen:
                seen, cpu_at_sight, looks = started, time.clock_gettime(clock), 0
                continue
            looks += 1  # not seconds: a machine that was suspended meanwhile is nobody's guilt
            cpu_seconds = time.clock_gettime(clock) - cpu_at_sight
            if cpu_seconds >= self._kill - self._poll or looks >= _LOOKS_IN_A_KILL * _WAITING_FACTOR:
                self._condemned = started
                signal.pthread_kill(self._main, _SIGNAL)
