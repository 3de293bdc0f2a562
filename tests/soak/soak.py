"""Minutes of load while workers are killed, hung, slowed and restarted, one answers garbage, clients leave and policies
are swapped: by the records of clients, gateway and workers every request ends exactly once, and nothing is left behind.

``python -m tests.soak.soak --minutes 5 [--seed 1] [--folder DIR]``; status 1 and what was wrong if anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.soak.fleet import MockProcess, misfortunes
from tests.support.fake_vllm import FakeVllm, auto, choose, close_mid_stream, error, garbage, garbage_in_stream, silent
from tests.support.match_records import ENDS, gateway_events, read_lines
from tests.support.processes import RunningGateway, running_gateway
from tests.support.running_plane import Answer, Client, chat

CONCURRENCY = 48
ODD_BEHAVIOURS = (auto(3), garbage(), garbage_in_stream(2), close_mid_stream(2), error(500), error(503), silent())
SPECS = ("round_robin", "head_room", "least_tokens", "power_of_two", "prefix_affinity", "expert", "least_loaded")
CONFIG = """
[timeouts]
first_byte_seconds = 6
inter_token_seconds = 3
connect_seconds = 2
[queue]
max_seconds = 10
[scrape]
interval_seconds = 0.5
timeout_seconds = 1
health_interval_seconds = 0.5
health_timeout_seconds = 1
unhealthy_after = 2
[event_log]
dir = "events"
[[pool]]
name = "default"
workers = [{workers}]
"""


@dataclass
class Tally:
    ends: dict[str, list[str]] = field(default_factory=dict)
    """How each request ended for its client, by id."""
    answered_by: dict[str, str] = field(default_factory=dict)
    """The worker whose whole answer a client got."""
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    swaps: int = 0

    def ended(self, request_id: str, how: str) -> None:
        self.ends.setdefault(request_id, []).append(how)

    @property
    def by_end(self) -> Counter[str]:
        return Counter(how for hows in self.ends.values() for how in hows)


def end_of(got: Answer) -> str | None:
    """``whole``, ``error`` (said so), ``reset`` (cut where the framing shows it); None: cut and not to be noticed."""
    if not got.complete:
        return "reset"
    if got.status != 200:
        return "error" if got.json["error"] else None
    if "event-stream" not in got.headers["content-type"]:
        return "whole" if "usage" in got.json else None
    said = any(isinstance(event, dict) and "error" in event for event in got.events)
    return "error" if said else "whole" if got.events and got.events[-1] == "[DONE]" else None


async def ask(gateway: RunningGateway, request_id: str, rng: random.Random, tally: Tally) -> None:
    fields = {"max_tokens": 200, "stream": rng.random() < 0.7}
    headers = (f"x-request-id: {request_id}", f"x-ranvier-output-tokens: {rng.randrange(1, 60)}")
    data = chat(*headers, model="mock", content="words " * rng.randrange(1, 300), **fields)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    client = Client(reader, writer)
    try:
        await client.send(data)
        if rng.random() < 0.15:
            await asyncio.sleep(rng.random() * 0.5)
            client.leave()
            tally.ended(request_id, "left")
            return
        got = await client.receive(90)
    except ConnectionError:
        tally.ended(request_id, "reset")
        return
    finally:
        writer.close()
    how = end_of(got)
    tally.ended(request_id, how or "cut")
    if how == "whole":
        tally.answered_by[request_id] = got.headers["x-ranvier-worker"]
    elif how is None:
        tally.wrong.append(f"{request_id}: cut without a word: {got}")


async def load(gateway: RunningGateway, seconds: float, seed: int, tally: Tally) -> None:
    until = time.monotonic() + seconds

    async def one_after_another(client: int) -> None:
        rng, number = random.Random(f"{seed}/{client}"), 0
        while time.monotonic() < until:
            number += 1
            await ask(gateway, f"soak-{seed}-{client}-{number}", rng, tally)
            await asyncio.sleep(rng.random() * 0.1)

    async with asyncio.TaskGroup() as group:
        for client in range(CONCURRENCY):
            group.create_task(one_after_another(client))


async def swap(gateway: RunningGateway, rng: random.Random, tally: Tally) -> None:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as admin:
        while True:
            await asyncio.sleep(rng.uniform(2, 6))
            url = f"{gateway.admin_url}/admin/policies/default/load"
            answer = await admin.post(url, json={"specs": rng.choice(SPECS)})
            tally.swaps += answer.status_code == 200


@dataclass
class Footprint:
    rss_mib: float
    num_descriptors: int
    num_inflight: int
    """By the gateway's own metrics: in flight at workers and held."""

    @classmethod
    def of(cls, gateway: RunningGateway) -> Footprint:
        folder = Path(f"/proc/{gateway.process.pid}")
        rss = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())
        return cls(int(rss[1]) / 1024 if rss else 0.0, len(list((folder / "fd").iterdir())), inflight(gateway))


def metric(gateway: RunningGateway, name: str) -> float:
    with urllib.request.urlopen(f"{gateway.admin_url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{|\s)", line))


def inflight(gateway: RunningGateway) -> int:
    return int(metric(gateway, "ranvier_worker_inflight_requests") + metric(gateway, "ranvier_queue_requests"))


async def settled(gateway: RunningGateway, descriptors: int, seconds: float = 30) -> Footprint:
    """Its footprint once nothing is in flight and idle connections have been closed, or as it is after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        now = await asyncio.to_thread(Footprint.of, gateway)
        if (now.num_inflight == 0 and now.num_descriptors <= descriptors) or time.monotonic() > until:
            return now
        await asyncio.sleep(0.5)


async def run(gateway: RunningGateway, workers: list[MockProcess], seconds: float, seed: int, tally: Tally) -> Any:
    """Footprints before and after; the first is taken when a warm-up has filled every pool and cache once."""
    rng = random.Random(seed)
    await load(gateway, min(10.0, seconds / 5), seed + 1000, tally)
    before = await settled(gateway, 0, 8)
    others = [
        asyncio.ensure_future(misfortunes(workers, rng, tally.faults)),
        asyncio.ensure_future(swap(gateway, rng, tally)),
    ]
    await load(gateway, seconds, seed, tally)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return before, await settled(gateway, before.num_descriptors + SPARE_DESCRIPTORS)


SPARE_DESCRIPTORS = 12
"""What may be open more than at the first look: the scraper's connections to workers that were away, a log file."""
SPARE_MIB = 48.0
"""What it may have grown: bounded caches that the warm-up did not fill, and the allocator's reserve."""


def judge(tally: Tally, folder: Path, workers: list[MockProcess]) -> Iterable[str]:
    """What the three records say against each other."""
    logged = [record for record in gateway_events(folder / "events") if isinstance(record, list)]
    arrived = Counter(record[2][1] for record in logged if record[1] == "RequestArrived")
    ended = Counter(record[2][1] for record in logged if record[1] in ENDS and record[2][-1] is not True)  # retriable
    ended += Counter(c[1] for r in logged if len(r) > 3 for c in r[3] if c[0] == "Reject")
    yield from (f"{i} arrived {n} times" for i, n in arrived.items() if n != 1)
    yield from (f"{i} ended {ended[i]} times in the gateway" for i in arrived if ended[i] != 1)
    yield from (f"{i} ended for its client as {ends}" for i, ends in tally.ends.items() if len(ends) != 1)
    yield from (f"{i} has an answer and never arrived" for i in tally.answered_by if not arrived[i])
    done = {
        w.worker_id: Counter(r["request_id"] for r in _lines(w.records) if r["outcome"] in ("stop", "length"))
        for w in workers
    }
    unsure = {w.worker_id for w in workers if w.was_killed}
    for request_id, worker_id in tally.answered_by.items():
        if worker_id in done and worker_id not in unsure and done[worker_id][request_id] != 1:
            yield f"{request_id} was answered by {worker_id}, which completed it {done[worker_id][request_id]} times"


def _lines(path: Path) -> Iterable[Any]:
    try:
        yield from read_lines(path)
    except json.JSONDecodeError:
        return  # the last line of one that was killed


def replayed(folder: Path) -> Iterable[str]:
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "replay-log",
        *map(str, sorted((folder / "events").glob("*.jsonl"))),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"the event log does not replay: {done.stdout[-500:]} {done.stderr[-500:]}"


def soak(folder: Path, seconds: float, seed: int) -> tuple[list[str], str]:
    """What was wrong, and the figures in a few lines."""
    tally, workers = Tally(), [MockProcess(folder, number) for number in range(4)]
    for worker in workers:
        worker.start()

    async def all_of_it() -> tuple[Footprint, Footprint, float, int]:
        rng = random.Random(f"{seed}/odd")
        async with FakeVllm(choose(lambda request: rng.choice(ODD_BEHAVIOURS)), model="mock") as odd:
            urls = ", ".join(f'"{url}"' for url in [*(w.url for w in workers), odd.url])
            config = folder / "gateway.toml"
            config.write_text(CONFIG.replace("{workers}", urls))
            with ExitStack() as stack:
                gateway = await asyncio.to_thread(stack.enter_context, running_gateway(folder, "--config", str(config)))
                before, after = await run(gateway, workers, seconds, seed, tally)
                errors = await asyncio.to_thread(metric, gateway, "ranvier_runtime_errors_total")
                traces = gateway.output().count("Traceback")
        return before, after, errors, traces

    try:
        before, after, errors, traces = asyncio.run(all_of_it())
    finally:
        for worker in workers:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
            asyncio.run(worker.end(signal.SIGTERM))
    wrong = [*tally.wrong, *judge(tally, folder, workers), *replayed(folder)]
    wrong += [f"{after.num_inflight} still in flight"] if after.num_inflight else []
    wrong += (
        [f"descriptors: {before} before, {after} after"]
        if after.num_descriptors > before.num_descriptors + SPARE_DESCRIPTORS
        else []
    )
    wrong += [f"memory: {before} before, {after} after"] if after.rss_mib > before.rss_mib + SPARE_MIB else []
    wrong += [f"{errors:.0f} runtime errors, {traces} tracebacks in the log"] if errors or traces else []
    figures = (
        f"{len(tally.ends)} requests: {dict(tally.by_end)}\n"
        f"faults: {dict(tally.faults)}, policy swaps: {tally.swaps}\n"
        f"before: {before}\nafter:  {after}"
    )
    return wrong, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wrong, figures = soak(folder, options.minutes * 60, options.seed)
    print(figures)
    for line in wrong[:50]:
        print(f"WRONG: {line}")
    print(f"{len(wrong)} wrong" if wrong else "every request ended exactly once; nothing is left behind")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
