"""See also ``test_replay.py``, whose runs are all started by ``launch.send``."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from loadgen.launch import LaunchError, send
from loadgen.plan import Plan


def test_the_command_line_patches_nothing():
    """Only the process that sends imports Locust."""
    code = "import sys, loadgen.cli; sys.exit(any(name in sys.modules for name in ('locust', 'gevent')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(LaunchError):
        send(Plan("http://127.0.0.1:1", trace="/no/such/trace"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
