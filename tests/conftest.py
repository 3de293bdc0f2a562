"""For all tests. A busy machine makes an example slow, not wrong: hypothesis is told not to mind.

A run that a shell put into the background ignores SIGINT, and so would every process that a test starts and interrupts.

Gateways that tests start keep their event logs in a folder of this run's own, not in the user's.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ranvier", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ranvier")

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _state_of_this_run() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="ranvier-state-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)
