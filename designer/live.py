"""``designer ui``: the reports of runs as they grow, on loopback, to be read and nothing else.

No script is sent and none may run, nothing is fetched from elsewhere, and only requests that name this very address are
answered, so that no other site can have a browser read it.
"""

from __future__ import annotations

import asyncio
import html
import sqlite3
from collections.abc import Container, Mapping
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from designer.findings import read_findings
from designer.ledger import LEDGER_FILE, Ledger, LedgerError
from designer.readonly_sql import QueryError
from designer.report import to_html, verdict_line
from designer.report_style import STYLE, VIEWPORT

REFRESH_SECONDS = 5
_Stamp = tuple[tuple[int, int], ...]
_UNREADABLE = (LedgerError, QueryError, OSError, sqlite3.Error, ValueError, KeyError)
"""What a ledger that is damaged, or of another version, ends in when it is read."""
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def application(place: Path, hosts: Container[str]) -> web.Application:
    """Serves a run, or every run in a folder of runs.

    Args:
        place: the folder of a run, or one that holds such folders.
        hosts: the values of ``Host`` that are answered.
    """
    app = web.Application(middlewares=[_guarded(hosts)])
    runs = _Runs(place)
    app.router.add_get("/", runs.index, allow_head=False)
    app.router.add_get("/runs/{name}", runs.report, allow_head=False)
    return app


def _guarded(hosts: Container[str]) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in hosts:
            return web.Response(status=421, text="this address is not served here\n", headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.reason}\n")
        except _UNREADABLE as error:
            response = _unreadable(error)
        response.headers.update(HEADERS)
        return response

    return guard


def _unreadable(error: Exception) -> web.Response:
    """A run that is there and cannot be shown: being written at this moment, of another version, or damaged."""
    said = html.escape(str(error) if isinstance(error, LedgerError | QueryError) else f"cannot be read: {error}")
    head = f"<meta charset='utf-8'>{VIEWPORT}<title>Ranvier: a run that cannot be read</title><style>{STYLE}</style>"
    body = f"<h1>This run cannot be read</h1><p>{said}</p><p><a href='/'>All runs</a></p>"
    answer = _page(f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>")
    answer.set_status(503)
    answer.headers["retry-after"] = str(REFRESH_SECONDS)
    return answer


class _Runs:
    """The pages, each made anew only when its ledger has grown."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._made: dict[tuple[Path, bool], tuple[_Stamp, str]] = {}
        self._lines: dict[Path, tuple[_Stamp, str]] = {}

    def folders(self) -> dict[str, Path]:
        """By name, latest first. What was not listed is not served."""
        if (self._place / LEDGER_FILE).is_file():
            return {self._place.resolve().name: self._place}
        found = sorted(self._place.glob(f"*/{LEDGER_FILE}"), key=lambda path: -path.stat().st_mtime)
        return {path.parent.name: path.parent for path in found}

    async def index(self, request: web.Request) -> web.Response:
        folders = self.folders()
        if len(folders) == 1:
            return await self._report(*next(iter(folders.items())), request)
        lines = [await asyncio.to_thread(self._line, name, folder) for name, folder in folders.items()]
        again = f"<meta http-equiv='refresh' content='{REFRESH_SECONDS}'>"
        rows = "".join(lines) or "<tr><td>No run yet.</td></tr>"
        body = (
            f"<h1>Ranvier: runs</h1><table><tr><th scope='col'>run</th><th scope='col'>outcome</th></tr>{rows}</table>"
        )
        head = f"<meta charset='utf-8'>{VIEWPORT}{again}<title>Ranvier: runs</title><style>{STYLE}</style>"
        return _page(f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>")

    def _line(self, name: str, folder: Path) -> str:
        try:
            stamp, known = _stamp(folder), self._lines.get(folder)
            if known is not None and known[0] == stamp:
                said = known[1]
            else:
                with Ledger.open(folder) as ledger:
                    said = verdict_line(read_findings(ledger))
                self._lines[folder] = (stamp, said)
        except _UNREADABLE as error:
            said = f"cannot be read: {error}"
        link = f"<a href='/runs/{quote(name, safe='')}'>{html.escape(name)}</a>"
        return f"<tr><td>{link}</td><td class='text'>{html.escape(said)}</td></tr>"

    async def report(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        folder = self.folders().get(name)
        if folder is None:
            raise web.HTTPNotFound
        return await self._report(name, folder, request)

    async def _report(self, name: str, folder: Path, request: web.Request) -> web.Response:
        """In a thread of its own: other pages are answered meanwhile."""
        return _page(await asyncio.to_thread(self._text, name, folder, "still" in request.query))

    def _text(self, name: str, folder: Path, still: bool) -> str:
        stamp, known = _stamp(folder), self._made.get((folder, still))
        if known is not None and known[0] == stamp:
            return known[1]
        with Ledger.open(folder) as ledger:
            findings = read_findings(ledger)
        here, goes_on = f"/runs/{quote(name, safe='')}", findings.verdict is None
        links = [("All runs", "/")]
        if goes_on:
            links.append(("Reload by itself", here) if still else ("Hold still", f"{here}?still"))
        text = to_html(findings, REFRESH_SECONDS if goes_on and not still else 0, links)
        self._made[(folder, still)] = (stamp, text)
        return text


def _stamp(folder: Path) -> _Stamp:
    """Changes with every write to the ledger."""
    files = (folder / f"{LEDGER_FILE}{end}" for end in ("", "-wal"))
    return tuple((found.st_mtime_ns, found.st_size) for file in files if file.exists() and (found := file.stat()))


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8")
