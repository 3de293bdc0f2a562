"""Caps: refused before, never after; what is in flight counts with all it could be."""

from __future__ import annotations

import asyncio

import pytest

from designer.proposers.llm.message_log import Spent
from designer.proposers.llm.meter import CapReachedError, Meter, Reservation
from designer.proposers.llm.settings import Caps


async def test_what_could_pass_a_cap_is_refused_and_not_counted() -> None:
    meter = Meter(Caps(dollars=1.0), Spent(dollars=0.7))
    with pytest.raises(CapReachedError, match=r"cap of \$1: \$0.7000 used, the next request could cost \$0.3100"):
        await meter.reserve(Reservation(10, 0.31))
    await meter.reserve(Reservation(10, 0.3))
    assert meter.requests == 1


@pytest.mark.parametrize(
    ("caps", "spent", "message"),
    [
        (Caps(tokens=100), Spent(tokens=91), "cap of 100 tokens: 91 used, the next request could use 10"),
        (Caps(requests=5), Spent(requests=5), "cap of 5 requests reached"),
        (Caps(seconds=60.0), Spent(seconds=60.0), "cap of 60 s reached"),
        (Caps(dollars=0.0), Spent(), "cap of \\$0"),
    ],
)
async def test_every_cap_holds_from_what_was_spent_before(caps: Caps, spent: Spent, message: str) -> None:
    with pytest.raises(CapReachedError, match=message):
        await Meter(caps, spent, clock=lambda: 1000.0).reserve(Reservation(10, 0.01))


async def test_time_goes_on() -> None:
    now = [0.0]
    meter = Meter(Caps(seconds=60.0), Spent(seconds=30.0), clock=lambda: now[0])
    await meter.reserve(Reservation(1, 0.0))
    now[0] = 31.0
    with pytest.raises(CapReachedError):
        await meter.reserve(Reservation(1, 0.0))


async def test_one_waits_while_another_in_flight_may_leave_room() -> None:
    meter = Meter(Caps(dollars=1.0), Spent())
    first = Reservation(10, 0.9)
    await meter.reserve(first)
    second = asyncio.ensure_future(meter.reserve(Reservation(10, 0.5)))
    await asyncio.sleep(0)
    assert not second.done()
    await meter.settle(first, 3, 0.2)
    await second
    assert (meter.tokens, meter.dollars) == (3, 0.2)


async def test_one_that_waits_is_refused_when_the_other_used_all() -> None:
    meter = Meter(Caps(dollars=1.0), Spent())
    first = Reservation(10, 0.9)
    await meter.reserve(first)
    second = asyncio.ensure_future(meter.reserve(Reservation(10, 0.5)))
    await asyncio.sleep(0)
    await meter.settle(first, 10, 0.9)
    with pytest.raises(CapReachedError):
        await second
