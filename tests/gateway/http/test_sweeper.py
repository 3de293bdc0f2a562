"""Every connection is looked at once a period."""

from __future__ import annotations

import asyncio

from gateway.http.sweeper import NUM_BUCKETS, Sweeper
from gateway.runtime import Clock


class Item:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def swept(self, now: float) -> None:
        self.seen.append(now)


async def test_each_is_swept_until_it_ends() -> None:
    clock = Clock()
    sweeper = Sweeper(clock, 0.02)
    items = [Item() for _ in range(3 * NUM_BUCKETS)]
    buckets = [sweeper.add(item) for item in items]
    sweeper.start()
    while min(len(item.seen) for item in items) < 2:  # noqa: ASYNC110 - a few milliseconds
        await asyncio.sleep(0.005)
    for item, bucket in zip(items, buckets, strict=True):
        bucket.discard(item)
    seen = [len(item.seen) for item in items]
    assert max(seen) - min(seen) <= 1
    assert all(now <= clock.now for item in items for now in item.seen)
    await asyncio.sleep(0.03)
    assert [len(item.seen) for item in items] == seen
    sweeper.stop()
    sweeper.stop()
