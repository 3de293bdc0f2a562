"""The simulator against real time: the same requests, policies and profiles through the real gateway and mock workers.

Both run the same engine model and the same dispatcher, so what is left is what the simulator does not model: HTTP, the
event loop, the processes' share of the machine's cores, and the client's own lateness. A run whose client fell behind,
or that lost a request which the simulator served, is made once more, and then flagged and left out of every summary.
Beside the times, what the gateway's dispatcher was told is compared with what the simulated one is told.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import kendalltau, spearmanr

from designer.export import as_sent, as_traced, write_trace
from designer.heard import Differences, as_heard, differences, heard_by_gateway, heard_by_simulator
from designer.processes import Launch, RunningGateway, launched, running_gateway, running_mock_workers, start
from designer.profile_text import profile_toml
from designer.simulator.draws import Floats
from designer.simulator.fleet import WorkerPlan, plan_workers
from designer.simulator.policies import make_policy_set
from designer.simulator.results import SimulationResult
from designer.simulator.scenario import Scenario
from designer.simulator.workload import RequestColumns, draw_workload
from designer.simulator.world import simulate
from gateway.core.policy_set import PolicySet
from policies.loader import parse_specs

POLICIES = ("random", "round_robin", "least_waiting", "least_loaded", "least_tokens", "head_room")
METRICS: tuple[Metric, ...] = ("ttft", "response_time")

Metric = Literal["ttft", "response_time"]
Statistic = Literal["mean", "p99"]


class FidelityError(Exception):
    """A comparison that cannot be made; one line."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the scenario, of the requests that were answered in full."""

    mean: float
    p99: float

    @classmethod
    def of(cls, values: Floats | Sequence[float]) -> Times:
        """NaN of no values."""
        if not len(values):
            return cls(math.nan, math.nan)
        return cls(float(np.mean(values)), float(np.percentile(values, 99)))


@dataclass(frozen=True, slots=True)
class Side:
    """One policy, on one side."""

    num_requests: int
    num_completed: int
    ttft: Times
    response_time: Times

    def value(self, metric: Metric, statistic: Statistic) -> float:
        return float(getattr(getattr(self, metric), statistic))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One policy, in real time and simulated."""

    policy: str
    real: Side
    simulated: Side
    verdict: str
    """``valid``, or why the real run cannot be compared."""
    lag_p99: float
    """How late the client sent, seconds of real time."""
    heard: Differences | None = None
    """What the dispatchers of both sides were told; None: it was not looked at."""
    num_runs: int = 1
    """2: the first was invalid."""
    first_verdict: str = ""
    """Of two runs, why the first was invalid."""

    @property
    def is_valid(self) -> bool:
        return self.verdict == "valid"

    def error(self, metric: Metric, statistic: Statistic) -> float:
        """Simulated over real, less one: above 0 the simulator says too much."""
        return self.simulated.value(metric, statistic) / self.real.value(metric, statistic) - 1.0


@dataclass(frozen=True, slots=True)
class Fidelity:
    """All policies of one scenario and seed."""

    scenario: str
    seed: int
    speed: float
    comparisons: tuple[Comparison, ...]

    @property
    def valid(self) -> tuple[Comparison, ...]:
        return tuple(comparison for comparison in self.comparisons if comparison.is_valid)

    def worst_error(self, metric: Metric, statistic: Statistic) -> float | None:
        """The largest absolute error over valid runs; None without one."""
        return max((abs(comparison.error(metric, statistic)) for comparison in self.valid), default=None)

    def mean_error(self, metric: Metric, statistic: Statistic) -> float | None:
        """The mean absolute error over valid runs; None without one."""
        errors = [abs(comparison.error(metric, statistic)) for comparison in self.valid]
        return sum(errors) / len(errors) if errors else None

    def rank_correlation(self, metric: Metric) -> tuple[float, float] | None:
        """Spearman's rho and Kendall's tau of the policies' means; None with fewer than three valid runs."""
        if len(self.valid) < 3:
            return None
        real = [comparison.real.value(metric, "mean") for comparison in self.valid]
        simulated = [comparison.simulated.value(metric, "mean") for comparison in self.valid]
        return float(spearmanr(real, simulated).statistic), float(kendalltau(real, simulated).statistic)


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where the code of policies runs. By default as any other: in this process, and in a gateway like any other."""

    simulated: Callable[[Scenario, str, int, RequestColumns], Side]
    """By the simulator: of the traced scenario, the policy, the seed, and the requests as they are sent."""
    launch: Callable[[Path, Sequence[Path], Sequence[str]], Launch]
    """Of a gateway with a home folder that it writes, files that it must read, and the addresses of its workers."""
    hears: bool = True
    """Whether what the dispatchers were told may be compared, for which the policy runs in this process."""


def simulated_here(scenario: Scenario, policy: str, seed: int, columns: RequestColumns) -> Side:
    return side_of_result(simulate(scenario, as_in_gateway(policy, seed), seed, workload=columns))


HERE = Hosting(simulated_here, lambda home, files, urls: launched)


def compare(
    scenario: Scenario,
    policies: Sequence[str],
    seed: int,
    folder: Path,
    *,
    speed: float = 1.0,
    first_seconds: float | None = None,
    workers: Sequence[str] = (),
    on_policy: Callable[[Comparison], None] = lambda comparison: None,
    hosting: Hosting = HERE,
) -> Fidelity:
    """Replay the scenario's requests in real time under each policy, and simulate the same: what the trace says.

    Args:
        folder: gets the trace, the profiles, the records and the logs.
        speed: scenario seconds in a second; above 1 the machine has more to do, and delays weigh more.
        first_seconds: only what arrives before, seconds of the scenario; None: everything.
        workers: addresses of workers that are there already; none: mock workers are started, fresh for each run.
        hosting: where the policies' code runs.

    Raises:
        ScenarioError: the workload cannot be written as a trace.
        FidelityError, ProcessError: a process failed.
    """
    if not policies:
        raise FidelityError("name at least one policy")
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / "trace.jsonl"
    write_trace(scenario, seed, trace, first_seconds)
    scenario = as_traced(scenario, trace)
    columns = as_sent(draw_workload(scenario, seed))
    bench = _Bench(scenario, seed, speed, folder.resolve(), trace.resolve(), columns, tuple(workers), hosting)
    comparisons = []
    for policy in policies:
        simulated = hosting.simulated(scenario, policy, seed, columns)
        comparisons.append(once_more(partial(bench.compare, policy, simulated)))
        on_policy(comparisons[-1])
    return Fidelity(scenario.name, seed, speed, tuple(comparisons))


def once_more(run: Callable[[], Comparison]) -> Comparison:
    """An invalid run says nothing of the simulator; mostly something else kept the machine busy. It is made again."""
    first = run()
    return first if first.is_valid else replace(run(), num_runs=2, first_verdict=first.verdict)


def as_in_gateway(policy: str, seed: int, generation: int = 1) -> Callable[[], PolicySet]:
    """The set that a gateway has, which begins with the first generation: random policies draw the same there."""
    return lambda: make_policy_set(policy, seed, generation)


def side_of_result(result: SimulationResult) -> Side:
    """What the simulator says."""
    done = result.completed
    return Side(len(result), int(done.sum()), Times.of(result.ttfts[done]), Times.of(result.response_times[done]))


def side_of_records(records: Sequence[dict[str, Any]], speed: float) -> Side:
    """What the load generator recorded, in the scenario's seconds."""
    good = [record for record in records if record["error"] is None]
    ttfts = [(r["first_token"] - r["intended"]) * speed for r in good if r["first_token"] is not None]
    return Side(
        num_requests=len(records),
        num_completed=len(good),
        ttft=Times.of(ttfts),
        response_time=Times.of([(record["end"] - record["intended"]) * speed for record in good]),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where the real runs are made."""

    scenario: Scenario
    seed: int
    speed: float
    folder: Path
    trace: Path
    columns: RequestColumns
    workers: tuple[str, ...] = ()
    hosting: Hosting = HERE

    def compare(self, policy: str, simulated: Side) -> Comparison:
        report, records = self._replay(policy)
        real = side_of_records(records, self.speed)
        verdict = str(report["verdict"])
        if real.num_completed < simulated.num_completed:
            verdict = f"invalid: {simulated.num_completed - real.num_completed} requests lost"
        lag = report["lag"]
        late = float(lag["p99"]) if lag else math.nan
        return Comparison(policy, real, simulated, verdict, late, self._heard(policy))

    def _heard(self, policy: str) -> Differences | None:
        """Only at the scenario's own speed: the log has real times."""
        if self.speed != 1.0 or self.workers or not self.hosting.hears:
            return None
        heard = heard_by_gateway(self._events(policy))
        columns = as_heard(heard, self.columns, lambda request_id: int(request_id.rpartition("-")[2]))
        simulated, _ = heard_by_simulator(
            self.scenario,
            as_in_gateway(policy, self.seed),
            self.seed,
            columns,
            list(heard.arrivals),
            joined=list(heard.workers),
        )
        return differences(heard, simulated)

    def _home(self, policy: str) -> Path:
        """Of a gateway that runs it; the only place where that writes."""
        return self.folder / f"{_file_name(policy)}.gateway"

    def _events(self, policy: str) -> Path:
        return self._home(policy) / "events"

    def _replay(self, policy: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Fresh workers and a fresh gateway, so that nothing is remembered of the policy before."""
        name = _file_name(policy)
        records = self.folder / f"{name}.records.jsonl"
        with self._gateway(policy, name) as gateway:
            arguments = ["replay", str(self.trace), "--url", gateway.url, "--records", str(records), "--json"]
            arguments += ["--speed", str(self.speed), "--max-tokens", self._max_tokens()]
            process = start("loadgen.cli", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            output, errors = process.communicate()
        if not output:
            why = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise FidelityError(f"the replay under {policy} ended with status {process.returncode}: {why}")
        return json.loads(output), [json.loads(line) for line in records.read_text().splitlines()]

    def _max_tokens(self) -> str:
        """Of the trace where the workload has any; else none is sent, as none is simulated."""
        return "trace" if self.columns.max_tokens.any() else "none"

    @contextlib.contextmanager
    def _gateway(self, policy: str, name: str) -> Iterator[RunningGateway]:
        with contextlib.ExitStack() as stack:
            config = self.folder / f"{name}.gateway.toml"
            plans = () if self.workers else plan_workers(self.scenario)
            started = [url for group in self._groups() for url in self._start_group(stack, group)] if plans else []
            config.write_text(gateway_toml(self.scenario, plans, started, self.seed, self.speed))
            urls = self.workers or started
            chosen = [word for part in policy.split("+") for word in ("--policy", part)]
            chosen += [word for url in self.workers for word in ("--worker", url)]
            home = self._home(policy)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            arguments = ["--config", str(config), *chosen, "--event-log", str(self._events(policy))]
            launch = self.hosting.launch(home, [config, *_files_of(policy)], urls)
            log = self.folder / f"{name}.gateway.log"
            yield stack.enter_context(running_gateway(arguments, log, len(urls), launch))

    def _groups(self) -> Iterator[list[WorkerPlan]]:
        plans = iter(plan_workers(self.scenario))
        for workers in self.scenario.workers:
            yield [next(plans) for _ in range(workers.count)]

    def _start_group(self, stack: contextlib.ExitStack, group: list[WorkerPlan]) -> list[str]:
        profile = self.folder / f"{group[0].worker_id}.profile.toml"
        source = {"scenario": f"scenario {self.scenario.name}, its profile with its changes"}
        profile.write_text(profile_toml(group[0].profile, source, {"": "scenario"}))
        arguments = ["--count", str(len(group)), "--profile", str(profile), "--speed", str(self.speed)]
        return stack.enter_context(running_mock_workers(arguments))


def _files_of(policy: str) -> list[Path]:
    return [Path(spec.source) for spec in parse_specs(policy) if spec.source.endswith(".py")]


def _file_name(policy: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in policy)


def gateway_toml(scenario: Scenario, plans: Sequence[WorkerPlan], urls: Sequence[str], seed: int, speed: float) -> str:
    """A gateway's configuration that is the scenario's, at ``speed`` scenario seconds in a second."""
    queue = scenario.queue
    lines = [
        "[queue]",
        f"max_requests = {queue.max_requests}",
        f"max_prompt_tokens = {queue.max_prompt_tokens}",
        f"max_seconds = {min(queue.max_seconds / speed, 86_400.0)}",
        "[limits]",
        f"max_attempts = {queue.max_attempts}",
        "[scrape]",
        f"interval_seconds = {scenario.scrape.interval_seconds / speed}",
        "[policy]",
        f"seed = {seed}",
    ]
    for plan, url in zip(plans, urls, strict=True):
        sizes = plan.sizes()
        lines += [
            "[[worker]]",
            f"url = {json.dumps(url)}",
            f"id = {json.dumps(plan.worker_id)}",
            f"variant = {json.dumps(plan.variant)}",
            f"kv_capacity_tokens = {sizes.kv_capacity_tokens}",
            f"block_size = {sizes.block_size}",
            f"max_num_seqs = {sizes.max_num_seqs}",
        ]
    return "\n".join(lines) + "\n"
