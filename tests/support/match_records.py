"""Matches what client, gateway and workers recorded, by request id: was any request lost, doubled or left hanging?

``python -m tests.support.match_records CLIENT.jsonl EVENT_LOG_DIR WORKERS.jsonl``
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Matched:
    """Request ids by what is wrong with them; all empty is as it should be."""

    num_requests: int = 0
    lost: list[str] = field(default_factory=list)
    """Sent by the client, without a whole answer, or never completed by a worker, or unknown to the gateway."""
    duplicated: list[str] = field(default_factory=list)
    """Completed more than once by workers, or answered more than once."""
    hung: list[str] = field(default_factory=list)
    """Arrived at the gateway and never ended there."""

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.hung)

    def __str__(self) -> str:
        counts = f"{len(self.lost)} lost, {len(self.duplicated)} duplicated, {len(self.hung)} hung"
        return f"{self.num_requests} requests: {counts}"


def match(client: Iterable[str], completed: Iterable[str], arrived: Iterable[str], ended: Iterable[str]) -> Matched:
    """Ids of: whole answers at the client (failed ones left out by None), completions, arrivals, ends."""
    answers, done = Counter(client), Counter(completed)
    known, over = Counter(arrived), Counter(ended)
    everything = set(answers) | set(known)
    return Matched(
        num_requests=len(everything),
        lost=sorted(i for i in everything if not (answers[i] and done[i] and known[i])),
        duplicated=sorted(i for i in everything if max(answers[i], done[i], known[i]) > 1),
        hung=sorted(i for i in known if known[i] != over[i]),
    )


def read_lines(path: Path) -> Iterator[Any]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def gateway_events(folder: Path) -> Iterator[Any]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from read_lines(path)


ENDS = {"RequestEnded", "ClientLeft"}


def match_files(client: Path, events: Path, workers: Path) -> Matched:
    logged = [record for record in gateway_events(events) if isinstance(record, list)]
    rejected = [command[1] for record in logged if len(record) > 3 for command in record[3] if command[0] == "Reject"]
    return match(
        (r["request_id"] for r in read_lines(client) if r["error"] is None),
        (r["request_id"] for r in read_lines(workers) if r["outcome"] in {"stop", "length"}),
        (r[2][1] for r in logged if r[1] == "RequestArrived"),
        [*(r[2][1] for r in logged if r[1] in ENDS), *rejected],
    )


if __name__ == "__main__":
    result = match_files(*(Path(name) for name in sys.argv[1:4]))
    print(result)
    raise SystemExit(not result.is_clean)
