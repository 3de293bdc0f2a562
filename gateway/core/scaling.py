"""From what an autoscaling policy wants to what is asked for: bounds, delays, and replicas that never start.

A wish upward counts when it was held over ``up_delay_seconds``, one downward over ``down_delay_seconds`` (the
stabilisation windows of Kubernetes' HorizontalPodAutoscaler): fewer only as far as every wish within the window
went, and none before the first window has passed. So a load that hovers between one replica and two stays at two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class ScalingConfig:
    """Seconds."""

    interval_seconds: float = 15.0
    up_delay_seconds: float = 30.0
    down_delay_seconds: float = 300.0
    start_timeout_seconds: float = 900.0
    """A replica asked for so long ago is no longer counted as starting."""


class VariantScaling:
    """The replicas of one variant: how many there are, are starting, and were asked for."""

    def __init__(self, minimum: int, maximum: int, config: ScalingConfig) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self._config = config
        self._wishes: deque[tuple[float, int]] = deque()
        self._starting: deque[float] = deque()
        """When each starting replica was asked for."""
        self._since: float | None = None
        """The first decision."""
        self.asked: int | None = None
        """The latest SetReplicas; None before the first."""

    def reconfigure(self, minimum: int, maximum: int, config: ScalingConfig) -> None:
        self.minimum, self.maximum, self._config = minimum, maximum, config

    @property
    def num_starting(self) -> int:
        return len(self._starting)

    def joined(self) -> None:
        """A replica that was asked for is there."""
        if self._starting:
            self._starting.popleft()

    def pass_time(self, now: float) -> None:
        while self._starting and self._starting[0] <= now - self._config.start_timeout_seconds:
            self._starting.popleft()

    def decide(self, now: float, num_present: int, wish: int | None) -> int | None:
        """The replicas to ask for, or None to leave it. ``num_present``: workers that are there and not draining."""
        self.pass_time(now)
        current = num_present + len(self._starting)
        if self._since is None:
            self._since = now
        self._remember(now, self._clamped(current if wish is None else wish))
        target = self._clamped(self._damped(now, current, self._since))
        if target > current:
            self._starting.extend([now] * (target - current))
        elif target < current:
            self._stop(current - target)
        if target == current and (self.asked is None or self.asked == target):
            return None
        if target <= current and self.asked == target:
            return None
        self.asked = target
        return target

    def figures(self) -> tuple[object, ...]:
        return (self.asked, self._since, tuple(self._starting), tuple(self._wishes))

    def _damped(self, now: float, current: int, since: float) -> int:
        """The wishes that have been held for long enough to count."""
        least = min(self._within(now, self._config.up_delay_seconds))
        if least >= current or now - since < self._config.down_delay_seconds:
            return max(current, least)
        return min(current, max(self._within(now, self._config.down_delay_seconds)))

    def _within(self, now: float, seconds: float) -> list[int]:
        """Wishes of the last ``seconds``; the newest always."""
        return [wish for time, wish in self._wishes if time > now - seconds] or [self._wishes[-1][1]]

    def _remember(self, now: float, wish: int) -> None:
        self._wishes.append((now, wish))
        keep = max(self._config.down_delay_seconds, self._config.up_delay_seconds)
        while self._wishes[0][0] <= now - keep and len(self._wishes) > 1:
            self._wishes.popleft()

    def _clamped(self, wish: int) -> int:
        return max(self.minimum, min(self.maximum, wish))

    def _stop(self, surplus: int) -> None:
        """Those still starting are the first not to be wanted."""
        for _ in range(min(surplus, len(self._starting))):
            self._starting.pop()


class Scaling:
    """All variants of one pool that have bounds. A variant without bounds is never asked for."""

    def __init__(self, replicas: Mapping[str, tuple[int, int]], config: ScalingConfig) -> None:
        self.config = config
        self.variants = {name: VariantScaling(low, high, config) for name, (low, high) in replicas.items()}
        self._due: float | None = None

    def reconfigure(self, replicas: Mapping[str, tuple[int, int]], config: ScalingConfig) -> None:
        """Other bounds and delays; what was asked for and wished is kept."""
        self.config = config
        before = self.variants
        self.variants = {name: VariantScaling(low, high, config) for name, (low, high) in replicas.items()}
        for name in self.variants.keys() & before.keys():
            before[name].reconfigure(*replicas[name], config)
            self.variants[name] = before[name]

    @property
    def num_starting(self) -> int:
        return sum(variant.num_starting for variant in self.variants.values())

    def figures(self) -> list[object]:
        """All of it, for the state digest."""
        return [self._due, [(name, *variant.figures()) for name, variant in self.variants.items()]]

    @property
    def next_due(self) -> float | None:
        return self._due

    def is_due(self, now: float) -> bool:
        """True once an interval; the first time at once."""
        if not self.variants or (self._due is not None and now < self._due):
            return False
        self._due = now + self.config.interval_seconds
        return True

    def joined(self, variant: str) -> None:
        if variant in self.variants:
            self.variants[variant].joined()

    def decide(self, now: float, present: Mapping[str, int], wishes: Mapping[str, int]) -> list[tuple[str, int]]:
        """What to ask for, by variant. ``present``: workers that are there and not draining."""
        asked = []
        for name, variant in self.variants.items():
            target = variant.decide(now, present[name], wishes.get(name))
            if target is not None:
                asked.append((name, target))
        return asked
