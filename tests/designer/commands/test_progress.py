"""Progress is for terminals only."""

from __future__ import annotations

import pytest

from designer.commands.progress import progress


def test_nothing_is_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2) as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")
