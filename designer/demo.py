"""The whole loop on this machine: replay, search, promote under load, replay again, compare with the simulator.

Everything runs as its own command in its own process, as an operator would run it: the gateway with four mock
workers, the load generator, the designer. Ends with status 0 only if every step did its job, no request was lost
and the load generator kept its schedule.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from designer.demo_page import write_page
from designer.export import as_sent, as_traced, write_trace
from designer.fidelity import as_in_gateway, gateway_toml
from designer.heard import as_heard, differences, heard_by_gateway, heard_by_simulator
from designer.processes import ProcessError, RunningGateway, finish, running_gateway, running_mock_workers, start
from designer.simulator.draws import Floats
from designer.simulator.fleet import plan_workers
from designer.simulator.scenario import load_scenario
from designer.simulator.workload import draw_workload

SCENARIO = "demo"
BASELINE = "least_loaded"
REPLAY_SEED = 4242
"""Of the replayed trace; the search draws others."""
SWAP_SECONDS = 8.0
"""Slice of the trace that is running while the winner is swapped in."""


class DemoError(Exception):
    """A step failed; one line."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One replay: the load generator's report and, by request id, its response times."""

    report: dict[str, Any]
    response_times: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.response_times.values()) / len(self.response_times)


class Demo:
    """Paths and steps of one run in ``folder``."""

    def __init__(self, folder: Path, budget: int, console: Console) -> None:
        self.folder = folder
        self.budget = budget
        self.console = console
        self.scenario = load_scenario(SCENARIO)
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self._started:5.0f} s[/dim]  {text}")

    def run(self) -> None:
        trace = self.folder / "trace.jsonl"
        num_requests = write_trace(self.scenario, REPLAY_SEED, trace)
        with self._gateway() as gateway:
            self.say(
                f"gateway at {gateway.url} before {len(plan_workers(self.scenario))} mock workers, policy {BASELINE}"
            )
            self.say(f"replaying {num_requests} requests with Locust under {BASELINE} …")
            before = self._replay(gateway, trace, "before")
            self.say(f"mean response time {before.mean:.2f} s; searching on other seeds …")
            winner = self._search()
            self.say(f"swapping in {winner.name} while load is running …")
            during = self._swap_under_load(gateway, trace)
            self.say(f"{len(during.response_times)} requests during the swap, none lost; replaying the same trace …")
            after = self._replay(gateway, trace, "after")
        self._tell(before, after, *self._simulate(trace, before, after, winner), winner)

    @contextlib.contextmanager
    def _gateway(self) -> Iterator[RunningGateway]:
        """With what the scenario says of its workers, so that both gateways know the same."""
        plans, config = plan_workers(self.scenario), self.folder / "gateway.toml"
        profile = self.scenario.workers[0].profile
        workers = ["--count", str(len(plans)), "--profile", profile, "--records", str(self.folder / "workers.jsonl")]
        with running_mock_workers(workers) as urls:
            config.write_text(gateway_toml(self.scenario, plans, urls, REPLAY_SEED, 1.0))
            arguments = ["--config", str(config), "--policy", BASELINE, "--event-log", str(self.folder / "events")]
            with running_gateway(arguments, self.folder / "gateway.log", len(urls)) as gateway:
                yield gateway

    def _replay(self, gateway: RunningGateway, trace: Path, name: str) -> Measured:
        process = start("loadgen.cli", *self._replay_arguments(gateway, trace, name), stdout=subprocess.PIPE)
        replay = self._measured(process, name)
        if not replay.report["valid"]:
            raise DemoError(f"the replay {name} is not valid: {replay.report['verdict']}")
        return replay

    def _replay_arguments(self, gateway: RunningGateway, trace: Path, name: str) -> list[str]:
        records = self.folder / f"{name}.records.jsonl"
        return ["replay", str(trace), "--url", gateway.url, "--records", str(records), "--json", "--max-tokens", "none"]

    def _measured(self, process: subprocess.Popen[bytes], name: str) -> Measured:
        output, _ = process.communicate()
        if not output:
            raise DemoError(f"the replay {name} ended with status {process.returncode}")
        report = json.loads(output)
        records = [json.loads(line) for line in (self.folder / f"{name}.records.jsonl").read_text().splitlines()]
        failed = [record for record in records if record["error"] is not None]
        if failed:
            raise DemoError(f"the replay {name} lost {len(failed)} requests; the first: {failed[0]['error']}")
        if len(records) != report["num_requests"]:
            raise DemoError(f"the replay {name} recorded {len(records)} of {report['num_requests']} requests")
        return Measured(report, {r["request_id"]: r["end"] - r["intended"] for r in records})

    def _simulate(self, trace: Path, before: Measured, after: Measured, winner: Path) -> tuple[Floats, Floats]:
        """Response times of both replays, by a simulation of all that the gateway went through.

        What a gateway learned under one policy it knows when the next is swapped in, and policies go by it: the second
        replay alone, on a gateway that knows nothing, is another case.
        """
        heard = heard_by_gateway(self.folder / "events")
        scenario = as_traced(self.scenario, trace)
        columns = as_heard(heard, as_sent(draw_workload(scenario, REPLAY_SEED)), _row)
        baseline = as_in_gateway(BASELINE, REPLAY_SEED)
        swapped_in = as_in_gateway(str(winner), REPLAY_SEED, generation=2)
        swaps = [(time - (heard.started or 0.0), swapped_in) for time in heard.swaps]
        told, result = heard_by_simulator(
            scenario, baseline, REPLAY_SEED, columns, list(heard.arrivals), swaps, list(heard.workers)
        )
        self.say(f"the gateway beside the simulated one on all {len(columns)} requests: {differences(heard, told)}")
        times = result.response_times
        return times[: len(before.response_times)], times[-len(after.response_times) :]

    def _search(self) -> Path:
        run = self.folder / "search"
        process = start(
            *("designer.cli", "run", "--scenario", SCENARIO, "--proposer", "evolve", "--budget", str(self.budget)),
            *("--seed", "1", "--jobs", "2", "--out", str(run), "--json"),
            *("--validation-seeds", "8", "--sealed-seeds", "16", "--finalists", "3"),
            *(
                "--no-control",
                "--ablation-seeds",
                "0",
                "--regime-seeds",
                "0",
                "--why-seeds",
                "0",
                "--baseline",
                f"{BASELINE}+fcfs",
            ),
            stdout=subprocess.PIPE,
        )
        outcome = json.loads(finish(process, "the search"))
        if outcome["verdict"] != "better":
            raise DemoError(f"the search did not find a better policy: {outcome['summary']}")
        self.say(outcome["summary"])
        rehearsal = start("designer.cli", "rehearse", str(run), stdout=subprocess.PIPE)
        self.say(finish(rehearsal, "the rehearsal of the swap").decode().strip())
        return next(run.glob(f"designed-{outcome['winner'][:12]}*.py"))

    def _swap_under_load(self, gateway: RunningGateway, trace: Path) -> Measured:
        """Every request must be answered; nothing is timed, as the designer takes the load generator's core."""
        arguments = [*self._replay_arguments(gateway, trace, "during"), "--limit-seconds", str(SWAP_SECONDS)]
        load = start("loadgen.cli", *arguments, stdout=subprocess.PIPE)
        time.sleep(SWAP_SECONDS / 2)
        promote = start(
            *("designer.cli", "promote", str(self.folder / "search"), "--gateway", gateway.admin_url),
            stdout=subprocess.PIPE,
        )
        finish(promote, "the promotion")
        return self._measured(load, "during")

    def _tell(
        self,
        before: Measured,
        after: Measured,
        predicted_before: Floats,
        predicted_after: Floats,
        winner: Path,
    ) -> None:
        table = Table(title="Response time of the same trace, seconds")
        for column in ("", f"before: {BASELINE}", f"after: {winner.stem}", "before / after"):
            table.add_column(column, justify="left" if not column else "right")
        rows = (
            ("measured, mean", before.mean, after.mean),
            ("simulated, mean", float(predicted_before.mean()), float(predicted_after.mean())),
            ("measured, p99", _p99(before.response_times.values()), _p99(after.response_times.values())),
            ("simulated, p99", _p99(predicted_before), _p99(predicted_after)),
        )
        for name, old, new in rows:
            table.add_row(name, f"{old:.2f}", f"{new:.2f}", f"{old / new:.2f}")
        self.console.print(table)
        page = self.folder / "demo.html"
        simulated = (predicted_before.tolist(), predicted_after.tolist())
        measured = (list(before.response_times.values()), list(after.response_times.values()))
        write_page(page, measured, simulated, winner, rows)
        self.say(f"plots and the policy: {page}")


def _row(name: str) -> int:
    """Of a request of the trace, by its name: ``s4242-17``, and ``s4242-17/2`` when it is replayed again."""
    return int(name.partition("/")[0].rpartition("-")[2])


def _p99(values: Any) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))])


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m designer.demo [FOLDER]``; the budget is ``RANVIER_DEMO_BUDGET`` simulations."""
    words = sys.argv[1:] if arguments is None else arguments
    folder = Path(words[0]) if words else Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=False)
    try:
        Demo(folder.resolve(), int(os.environ.get("RANVIER_DEMO_BUDGET", "120")), console).run()
    except (DemoError, ProcessError) as error:
        console.print(f"demo: {error}", style="red")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
