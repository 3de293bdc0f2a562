"""The parts of a report that come after the sealed test: replays through the real gateway, and the rehearsed swap."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from designer.html_parts import note, table
from designer.replay_evidence import CONTRADICTED, LEAST_PAIRS, OUTWEIGHED


def gate_sections(replays: Mapping[str, Any] | None, rehearsal: Mapping[str, Any] | None) -> Iterator[str]:
    """Nothing of what was not done."""
    if replays is not None:
        yield from _replays(replays)
    if rehearsal is not None:
        yield from _swap_in(rehearsal)


def _replays(replays: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Through the real gateway</h2>"
    for one in replays["conditions"]:
        yield f"<p>{html.escape(one['sentence'])}</p>"
        rows = [_replay_row(row) for row in one["metrics"]]
        if rows:
            yield table(("metric", "comparator, s", "winner, s", "ratio, real", "ratio, simulated"), rows)
    if replays["aborted"]:
        yield f"<p>{html.escape(replays['sentence_of_aborted'])}</p>"
    yield note(
        f"Every pair that was ever made counts. From {LEAST_PAIRS} pairs on, evidence of {CONTRADICTED:g} is a "
        f"contradiction, and it stands until further pairs bring the evidence down to {OUTWEIGHED:g}."
    )


def _replay_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (f"{row['comparator']:.3f}", f"{row['winner']:.3f}", _interval(row), f"{row['simulated']:.3f}")
    return (str(row["metric"]), *figures)


def _swap_in(rehearsal: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>The swap, rehearsed</h2><p>{html.escape(rehearsal['sentence'])}</p>"
    if not rehearsal["rows"]:
        return
    rows = [
        (
            str(row["what"]),
            f"{row['comparator']:.2f}",
            f"{row['swap']:.2f}",
            f"{row['winner']:.2f}",
            _interval(row),
            f"{row['bound']:g}",
        )
        for row in rehearsal["rows"]
    ]
    head = ("around the swap", "no swap, s", "swap, s", "winner from the start, s", "swap / no swap", "bound")
    yield table(head, rows)
    yield note(
        f"Requests that were open when the winner took over, and those of the {rehearsal['after_seconds']:g} s after, "
        f"at {rehearsal['overload']:g} times the load. Refused if the whole interval is above the bound."
    )


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["t_interval"]
    return f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]"
