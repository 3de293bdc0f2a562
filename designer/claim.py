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
