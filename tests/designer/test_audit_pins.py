"""What docs/audit.md says caught each planted candidate is what the audit must find."""

from __future__ import annotations

import re
from pathlib import Path

from designer.audit_pins import as_pinned, endured_as_pinned
from designer.cheats import CHEATS, knows_seeds_by_heart
from designer.forgeries import FORGERIES
from designer.hostile import HOSTILE

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def _rows(begin: str) -> dict[str, list[str]]:
    """Of the table after a line that begins so, by the first column."""
    table = PAGE.split(f"\n{begin}", 1)[1].split("\n\n", 1)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


def test_the_page_says_what_catches_each_cheat() -> None:
    rows = _rows("| cheat |")
    assert rows.keys() == {cheat.name for cheat in (*CHEATS, *FORGERIES, knows_seeds_by_heart([]))}
    for name, (_, submitted, _, behind, _) in rows.items():
        assert as_pinned(name, submitted, behind, compiled=False), name


def test_the_page_says_what_stops_each_hostile_candidate() -> None:
    rows = _rows("| candidate |")
    assert rows.keys() == {cheat.name for cheat in HOSTILE}
    for name, (_, _, beside, _, apart, _, went_on, left) in rows.items():
        assert endured_as_pinned(name, beside, apart), name
        assert (went_on, left) == ("yes", "nothing"), name


def test_another_layer_is_not_what_was_pinned() -> None:
    assert as_pinned("gc walk", "static rules", "two processes", compiled=False)
    assert not as_pinned("gc walk", "static rules", "fresh seeds", compiled=False)
    assert not as_pinned("unknown", "static rules", "two processes", compiled=False)
    assert as_pinned("gc walk", "static rules", "two processes", compiled=True)
    assert not as_pinned("duplicates", "static rules", "invariants", compiled=True)
    assert as_pinned("duplicates", "static rules", "contract trial", compiled=True)
    assert endured_as_pinned("endless loop", "deadline", "rlimits")
    assert not endured_as_pinned("endless loop", "guard", "rlimits")
    assert not endured_as_pinned("unknown", "guard", "guard")
    assert not re.search(r"no named layer|\| nothing \|[^|]*\| nothing \|[^|]*$", PAGE)
