"""What ``designer run`` tells while it works: bars on a terminal, else a line now and then; on standard error."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from designer.arm import Progress
from designer.search import Watcher

Money = Callable[[], str]
"""What is left for models, as a phrase; empty where none is asked."""
_REMEMBERED = 8
_SECONDS_BETWEEN_LINES = 30.0
"""Seconds between the lines of one phase, where there is no terminal."""


@contextmanager
def watching(money: Money = lambda: "") -> Iterator[Watcher]:
    """A watcher for this terminal, or for this pipe."""
    if not sys.stderr.isatty():
        yield Lines(lambda line: typer.echo(line, err=True), money).watcher()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description:<34}"), TextColumn("{task.fields[more]}")
    columns = (words[0], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), words[1])
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress, money).watcher()


class Rate:
    """Simulations a minute, by the latest reports: what a run that goes on knew already was no work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    def see(self, done: int) -> None:
        """So many are done in all by now."""
        self._seen.append((self._clock(), done))

    @property
    def per_minute(self) -> float | None:
        """None: too little was seen."""
        if len(self._seen) < 2:
            return None
        (t0, before), (t1, after) = self._seen[0], self._seen[-1]
        return 60.0 * (after - before) / (t1 - t0) if t1 > t0 and after > before else None

    def minutes_for(self, rest: int) -> float | None:
        """What is left at this rate."""
        rate = self.per_minute
        return None if rate is None else rest / rate


class Lines:
    """One line for each rung of the search, and for each phase of the tests one at its start and one now and then."""

    def __init__(self, say: Callable[[str], None], money: Money, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._money = money
        self._clock = clock
        self._rates: dict[str, Rate] = {}
        self._done: dict[str, int] = {}
        self._said_at: dict[str, float] = {}
        self._last: tuple[str, int] = ("", -1)

    def watcher(self) -> Watcher:
        return Watcher(self._say, self._on_search, self._on_judge)

    def _on_search(self, progress: Progress) -> None:
        if (progress.arm, progress.spent) == self._last:
            return
        self._last = (progress.arm, progress.spent)
        pace = self._pace(progress.arm, progress.spent, progress.budget)
        money = self._money() if progress.arm == "search" else ""
        told = [describe(progress), f"{progress.spent} of {progress.budget} simulations", *pace, money]
        self._say(", ".join(part for part in told if part))

    def _on_judge(self, phase: str, total: int) -> None:
        now, done = self._clock(), self._done.get(phase, 0) + 1
        self._done[phase] = done
        if phase not in self._said_at:
            self._say(f"{phase}: {total} simulations")
            self._said_at[phase] = now
        pace = self._pace(phase, done, total)
        if now - self._said_at[phase] >= _SECONDS_BETWEEN_LINES:
            self._said_at[phase] = now
            self._say(", ".join([f"{phase}: {done} of {total}", *pace]))

    def _pace(self, phase: str, done: int, total: int) -> list[str]:
        rate = self._rates.setdefault(phase, Rate(self._clock))
        rate.see(done)
        return pace_words(rate, total - done)


class Bars:
    """A bar for each arm and phase."""

    def __init__(self, progress: Any, money: Money) -> None:
        self._progress = progress
        self._money = money
        self._tasks: dict[str, Any] = {}
        self._rates: dict[str, Rate] = {}
        self._done: dict[str, int] = {}

    def watcher(self) -> Watcher:
        return Watcher(self._progress.console.print, self._on_search, self._on_judge)

    def _on_search(self, progress: Progress) -> None:
        money = self._money() if progress.arm == "search" else ""
        self._show(progress.arm, describe(progress), progress.spent, progress.budget, money)

    def _on_judge(self, phase: str, total: int) -> None:
        name = f"{phase} {total}"
        self._done[name] = self._done.get(name, 0) + 1
        self._show(name, phase, self._done[name], total, "")

    def _show(self, name: str, text: str, done: int, total: int, more: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(text, total=total, more="")
        rate = self._rates.setdefault(name, Rate())
        rate.see(done)
        words = [*pace_words(rate, 0), more]
        shown = ", ".join(word for word in words if word)
        self._progress.update(self._tasks[name], completed=done, description=text, more=shown)


def describe(progress: Progress) -> str:
    """Whose candidates, how many, and the best so far."""
    best = "" if progress.best_ratio is None else f", best {progress.best_ratio:.3f}"
    return f"{progress.arm}: {progress.num_candidates} candidates{best}"


def pace_words(rate: Rate, rest: int) -> list[str]:
    """The rate, and the time that is left if anything is."""
    per_minute, left = rate.per_minute, rate.minutes_for(rest)
    if per_minute is None or left is None:
        return []
    return [f"{per_minute:.3g} a minute", *([f"{_duration(left)} left"] if rest > 0 else [])]


def _duration(minutes: float) -> str:
    return (
        f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    )
