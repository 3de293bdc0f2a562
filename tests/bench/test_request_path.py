"""What is measured are whole requests, each answered once. Speed itself is not asserted."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.telemetry.event_log import replay_log
from tests.bench.request_path import WORKERS, RequestPath, cases


@pytest.mark.parametrize("case", ["small", "32KB", "stream", "token"])
async def test_every_request_is_answered_and_every_event_logged(case: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        path = RequestPath(tmp_path, stack, frozenset())
        units = cases(path)[case]()
        assert units > 0
        assert path.dispatcher.num_dispatches == units
        assert path.dispatcher.num_requests == path.plane.num_requests == 0
        assert path.runtime.num_errors == 0
        assert sum(path.plane.output_tokens.values()) >= units
    result = replay_log(path.log_path)
    requests_alone = result.events - WORKERS - 1
    assert requests_alone == units * (3 if case in ("stream", "token") else 2)
