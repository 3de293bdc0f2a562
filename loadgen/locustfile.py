"""The same replay for Locust's own command, for its web page and statistics.

    locust -f loadgen/locustfile.py --headless --users 1 --host http://127.0.0.1:8000 --trace trace.jsonl

One process: the trace says when each request is sent, so Locust's users, spawn rate and workers have no say.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, BinaryIO

import locust
from locust.env import Environment

from loadgen.plan import Plan
from loadgen.replay import Replay, ReplayUser, raise_file_limit


@locust.events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    parser.add_argument("--trace", required=True, help="A trace, plain or gzipped")
    parser.add_argument("--model", default=None, help="Sent with every request")
    parser.add_argument("--api-key", default=None, env_var="OPENAI_API_KEY", help="Bearer token")
    parser.add_argument("--speed", type=float, default=1.0, help="Trace seconds in a second")
    parser.add_argument("--limit-seconds", type=float, default=None, help="Only the first so many seconds")
    parser.add_argument("--max-requests", type=int, default=None, help="At most so many requests")
    parser.add_argument("--records", default=None, help="Write one line of JSON for each request")


class TraceUser(ReplayUser):
    """Replays the trace once, then ends the run."""

    abstract = False

    @staticmethod
    def make_replay(environment: Environment) -> Replay:
        raise_file_limit()
        return Replay(_plan(environment), environment, _sink(environment.parsed_options.records))


def _sink(path: str | None) -> BinaryIO | None:
    """Open until the process ends; the replay flushes it."""
    return Path(path).open("wb") if path else None


def _plan(environment: Environment) -> Plan:
    options, run_id = environment.parsed_options, f"lg-{uuid.uuid4().hex[:8]}"
    return Plan(
        url=environment.host or "",
        trace=options.trace,
        model=options.model,
        api_key=options.api_key,
        speed=options.speed,
        limit_seconds=options.limit_seconds,
        max_requests=options.max_requests,
        salt=run_id,
        run_id=run_id,
    )
