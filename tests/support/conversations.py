"""A desk for conversations with scripted models: a ledger of its own, no waiting between attempts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from designer.ledger import LEDGER_FILE, Ledger, RunRecord
from designer.proposers.llm.conversation import Desk
from designer.proposers.llm.endpoint import Endpoint
from designer.proposers.llm.message_log import MessageLog
from designer.proposers.llm.meter import Meter
from designer.proposers.llm.settings import ROLES
from tests.support.fake_vllm import FakeVllm
from tests.support.scripted_models import Cast, cast_settings
from tests.support.small_scenario import small_scenario


def new_log(folder: Path) -> MessageLog:
    """Of the ledger in a folder, which is made."""
    if not (folder / LEDGER_FILE).exists():
        record = RunRecord("r", 0.0, "small", small_scenario().model_dump_json(), "hash", {}, "s")
        with Ledger.create(folder, record):
            pass
    return MessageLog(folder / LEDGER_FILE)


@asynccontextmanager
async def desk_of(cast: Cast, folder: Path, waits: list[float] | None = None, **changes: Any) -> AsyncIterator[Desk]:
    """Everything a conversation needs; ``waits`` hears how long it would have waited."""

    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    async with FakeVllm(cast.script()) as server:
        settings = cast_settings(server.url, **changes)
        log = new_log(folder)
        endpoints = {role: Endpoint(settings.role(role)) for role in ROLES}
        try:
            yield Desk(settings, log, Meter(settings.caps, log.spent()), endpoints, sleep)
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()
            log.close()
