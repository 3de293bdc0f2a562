"""What a run's claim does not cover: policies that should have been compared with the winner, and failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def not_compared(validation: Mapping[str, Any] | None) -> list[str]:
    """For each baseline that failed, that nothing is claimed against it."""
    missing = (validation or {}).get("not_compared", ())
    return [f"Not compared with {row['label']}, which failed: {row['failure']}." for row in missing]


def shortcomings(validation: Mapping[str, Any] | None, sealed: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sentences; none where all that was to be compared was."""
    for line in not_compared(validation):
        yield f"{line} The claim is about the best of the others, and it may be the weaker for it."
    for row in sealed[-1].get("failed", ()) if sealed else ():
        yield f"{row['label']} failed on the sealed seeds, so there is no figure beside it: {row['failure']}."


def of_cells(certificate: Mapping[str, Any]) -> list[str]:
    """In how many regimes a winner won and lost, at what level, and where its ranges promise too much."""
    cells, failed = certificate["cells"], certificate.get("failed", ())
    lines = [_won_and_lost(cells, len(cells) + len(failed), certificate.get("level"))]
    lines += [f"Not scored: {cell['regime']}: {cell['failure']}." for cell in failed]
    beside = [(cell["regime"], row) for cell in cells for row in cell.get("without", ())]
    lines += [f"Without {row['label']} in {regime}, where it failed: {row['failure']}." for regime, row in beside]
    if within := certificate.get("within_and_not_won"):
        lines.append(f"Within the ranges below it did not win in: {'; '.join(within)}.")
    return lines


def _won_and_lost(cells: Sequence[Mapping[str, Any]], total: int, level: float | None) -> str:
    """A certificate of an earlier version has no level: each of its cells was won by an interval of its own."""
    won, lost = (sum(1 for cell in cells if cell.get(what)) for what in ("won", "lost"))
    if level is None:
        return (
            f"Won in {won} of {total} regimes, each by a 95 % interval of its own: of so many, some may be won by "
            "chance. Whether it lost in any was not judged."
        )
    return (
        f"Won in {won} of {total} regimes, lost in {lost}, at a level of {level:.0%} for all of them together; in the "
        "others neither is shown."
    )
