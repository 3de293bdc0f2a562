"""Pieces of a page that every section uses; what they are given is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence


def note(text: str) -> str:
    """Small print."""
    return f"<p class='note'>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``head`` may be empty texts: then there is none."""
    heading = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{heading}</tr>' if any(head) else ''}{lines}</table>"
