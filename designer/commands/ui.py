"""``designer ui``: runs in a browser, live."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from designer.ledger import LedgerError
from designer.live import application

_LOOPBACK = "127.0.0.1"


def ui_command(
    place: Annotated[Path, typer.Argument(help="The folder of a run, or of several.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8770,
) -> None:
    """Show runs in a browser while they go on. Only this machine can read it, and nobody can change anything.

    Example: designer ui runs
    """
    if not place.is_dir():
        raise LedgerError(f"{place}: no such folder; name a run, or the folder that holds runs")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(place, port))


async def _serve(place: Path, port: int) -> None:
    known: set[str] = set()
    runner = web.AppRunner(application(place, known), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, _LOOPBACK, port)
        try:
            await site.start()
        except OSError as error:
            raise LedgerError(f"port {port} cannot be had: {error.strerror}; choose another --port") from None
        actual = runner.addresses[0][1]
        known.update({f"{_LOOPBACK}:{actual}", f"localhost:{actual}"})
        typer.echo(f"http://{_LOOPBACK}:{actual}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
