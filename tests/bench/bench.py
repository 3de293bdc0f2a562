"""Simulated requests per CPU second, in one table: ``python -m tests.bench.bench [--json] [--only WORD]``.

Counted is the CPU time of this process from handing over the drawn requests to the finished result: policies loaded,
events made, every invariant checked. Reading the trace is not counted. Each figure is the median of its repeats, and
each ratio is to another row of the same run, as machines differ and a shared one differs from minute to minute.

The traces are those of the scenarios ``azure-conv`` and ``mooncake``, in ``$RANVIER_TRACES`` or ``./traces``; where one
is missing, a look-alike of the same length is drawn, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from designer.simulator.fleet import plan_workers
from designer.simulator.garbage import rare_collections
from designer.simulator.requests import engine_requests
from designer.simulator.scenario import Scenario, TraceWorkload, load_scenario
from designer.simulator.workload import RequestColumns, draw_workload
from designer.simulator.world import simulate
from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineConfig
from gateway.mockworker.profile import WorkerProfile
from loadgen.synth import Lengths, Workload, synthesize
from loadgen.trace import write_trace
from tests.support.reference_engine import ReferenceEngine

FOREVER = 10**9 * PS_PER_SECOND
SLICE = 400
"""Requests that the step-by-step engine is given."""
LOOK_ALIKES = {
    "azure-conv": Workload(
        rate=5.53,
        duration=3502.0,
        inputs=Lengths(1020, 0.5, 14_050),
        outputs=Lengths(129, 0.95, 1000),
        arrivals="gamma",
        cv=1.1,
        max_tokens=(),
    ),
    "mooncake": Workload(
        rate=3.4,
        duration=3537.0,
        inputs=Lengths(6000, 0.9, 120_000),
        outputs=Lengths(280, 0.7, 2000),
        num_prefixes=12,
        prefix_tokens=4608,
        max_tokens=(),
    ),
}

Timed = Callable[[], int]
"""Does the work; the number of requests finished."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row to be: what is run, and the row that it is compared with."""

    name: str
    run: Timed
    baseline: str = ""
    target: float | None = None
    """Requests per CPU second asked of this row; None: it is there to be compared."""


@dataclass(frozen=True, slots=True)
class Row:
    case: str
    num_requests: int
    cpu_seconds: float
    """Median of the repeats."""
    rate: float
    """Requests per CPU second at the median."""
    slowest: float
    fastest: float
    baseline: str
    ratio: float | None
    """Rate over the baseline's; None: without one, or it was not run."""
    target: float | None


class Traces:
    """The scenarios with their traces, or with look-alikes in ``folder``; whole traces, and nothing held times out."""

    def __init__(self, folder: Path, num_requests: int | None = None) -> None:
        self._folder = folder
        self._num_requests = num_requests
        self.drawn: list[str] = []
        """Scenarios that run on a look-alike."""
        self.scenario = cache(self._scenario)

    def _scenario(self, name: str) -> Scenario:
        scenario = load_scenario(name)
        spec = scenario.workload
        assert isinstance(spec, TraceWorkload)
        if not Path(spec.path).is_file():
            path = self._folder / f"{name}.jsonl"
            write_trace(path, islice(synthesize(LOOK_ALIKES[name]), self._num_requests))
            spec = spec.model_copy(update={"path": str(path)})
            self.drawn.append(name)
        patient = scenario.queue.model_copy(update={"max_seconds": 1e6, "max_requests": 1_000_000})
        spec = spec.model_copy(update={"keep_fraction": 1.0})
        return scenario.model_copy(update={"workload": spec, "queue": patient})

    @cache  # noqa: B019 - one object, for the length of the program
    def requests(self, name: str, time_scale: float | None = None, output_scale: int = 1) -> RequestColumns:
        """All of the trace, or its first ``num_requests``."""
        scenario = self.scenario(name)
        if time_scale is not None:
            spec = scenario.workload.model_copy(update={"time_scale": time_scale})
            scenario = scenario.model_copy(update={"workload": spec})
        columns = draw_workload(scenario, 1)
        columns = replace(columns, num_output_tokens=columns.num_output_tokens * output_scale)
        return first(columns, self._num_requests)


def first(columns: RequestColumns, count: int | None) -> RequestColumns:
    """The first ``count`` requests; None: all."""
    if count is None:
        return columns
    cut = {name: value[:count] for name in _ROWS if (value := getattr(columns, name)) is not None}
    return replace(columns, **cut)


_ROWS = (
    *("arrival_ps", "num_prompt_tokens", "num_output_tokens", "num_prompt_bytes", "max_tokens", "tenant", "stream"),
    *("prefix_chunks", "answer_chunks", "session_ids", "models", "ttft_slos", "priorities"),
)
"""The fields of ``RequestColumns`` that have an entry for each request."""


def engine_alone(
    scenario: Scenario,
    columns: RequestColumns,
    make: Callable[[EngineConfig, WorkerProfile], Engine | ReferenceEngine],
) -> int:
    """The scenario's engines, fed in turn without a dispatcher; the number of requests finished.

    The interpreter looks for cycles as rarely as in a simulation.
    """
    engines = [make(plan.config, plan.profile) for plan in plan_workers(scenario)]
    with rare_collections():
        for index, (arrival, request) in enumerate(
            zip(columns.arrival_ps.tolist(), engine_requests(columns), strict=True)
        ):
            engines[index % len(engines)].add(request, arrival)
        return sum(len(run.finished) for engine in engines for run in engine.advance(FOREVER))


def quiet_engine(config: EngineConfig, profile: WorkerProfile) -> Engine:
    """As the simulator makes them: it reports first tokens and ends."""
    return Engine(config, profile, report_tokens=False)


def whole(scenario: Scenario, columns: RequestColumns, policy: str) -> int:
    """The whole simulator, through the gateway's dispatcher."""
    result = simulate(scenario, policy, 1, workload=columns)
    return int(result.completed.sum())


def with_workers(scenario: Scenario, count: int) -> Scenario:
    workers = scenario.workers[0].model_copy(update={"count": count})
    return scenario.model_copy(update={"workers": (workers,)})


def cases(traces: Traces) -> list[Case]:
    """All rows, in the order of the table."""
    return [*_engine_cases(traces), *_simulator_cases(traces), *_worker_cases(traces), *_load_cases(traces)]


def _engine_cases(traces: Traces) -> Iterable[Case]:
    azure, requests = traces.scenario("azure-conv"), traces.requests
    some = first(requests("azure-conv"), SLICE)
    long = requests("azure-conv", output_scale=8)
    yield Case("engine, step by step", lambda: engine_alone(azure, some, ReferenceEngine))
    slice_name = "engine, step by step"
    yield Case("engine, same slice", lambda: engine_alone(azure, some, quiet_engine), slice_name)
    yield Case("engine", lambda: engine_alone(azure, requests("azure-conv"), quiet_engine), slice_name, 60_000)
    yield Case("engine, outputs x 8", lambda: engine_alone(azure, long, quiet_engine), "engine")


def _simulator_cases(traces: Traces) -> Iterable[Case]:
    azure, moon = traces.scenario("azure-conv"), traces.scenario("mooncake")
    columns, long, blocks = (
        traces.requests("azure-conv"),
        traces.requests("azure-conv", output_scale=8),
        traces.requests("mooncake"),
    )
    yield Case("round_robin", lambda: whole(azure, columns, "round_robin"), "engine", 20_000)
    yield Case("head_room", lambda: whole(azure, columns, "head_room"), "round_robin", 12_000)
    yield Case("round_robin, outputs x 8", lambda: whole(azure, long, "round_robin"), "round_robin")
    yield Case("head_room, outputs x 8", lambda: whole(azure, long, "head_room"), "head_room")
    yield Case("mooncake, engine", lambda: engine_alone(moon, blocks, quiet_engine))
    yield Case("mooncake, round_robin", lambda: whole(moon, blocks, "round_robin"), "mooncake, engine", 8_000)
    yield Case("mooncake, prefix_affinity", lambda: whole(moon, blocks, "prefix_affinity"), "mooncake, round_robin")


def _worker_cases(traces: Traces) -> Iterable[Case]:
    """The same load on each worker: arrivals come faster as workers are more."""
    for policy in ("round_robin", "head_room"):
        for count in (8, 16, 32, 64):
            scenario = with_workers(traces.scenario("azure-conv"), count)
            columns = traces.requests("azure-conv", time_scale=1.0 / count)
            yield Case(f"{policy}, {count} workers", _bound(scenario, columns, policy), policy)


def _load_cases(traces: Traces) -> Iterable[Case]:
    """Four workers; the trace's own rate is 1, the rows above have 4."""
    scenario = traces.scenario("azure-conv")
    for policy in ("round_robin", "head_room"):
        for rate in (1, 2, 6, 8):
            columns = traces.requests("azure-conv", time_scale=1.0 / rate)
            yield Case(f"{policy}, rate x {rate}", _bound(scenario, columns, policy), policy)


def _bound(scenario: Scenario, columns: RequestColumns, policy: str) -> Timed:
    return lambda: whole(scenario, columns, policy)


def measure(chosen: Sequence[Case], repeat: int, on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """One row a case; ratios are to the rows that were run before it."""
    rows: dict[str, Row] = {}
    for case in chosen:
        results = [_timed(case.run) for _ in range(repeat)]
        count, seconds = results[0][0], sorted(seconds for _, seconds in results)
        rate = count / median(seconds)
        base = rows.get(case.baseline)
        rows[case.name] = Row(
            case=case.name,
            num_requests=count,
            cpu_seconds=median(seconds),
            rate=rate,
            slowest=count / seconds[-1],
            fastest=count / seconds[0],
            baseline=case.baseline,
            ratio=None if base is None else rate / base.rate,
            target=case.target,
        )
        on_row(rows[case.name])
    return list(rows.values())


def _timed(run: Timed) -> tuple[int, float]:
    started = time.process_time()
    count = run()
    return count, time.process_time() - started


def table(rows: Sequence[Row], drawn: Sequence[str]) -> Table:
    title = "Simulated requests per CPU second"
    if drawn:
        title += f" (drawn look-alikes, not the traces: {', '.join(drawn)})"
    made = Table(title=title)
    for name in ("case", "requests", "CPU s", "per CPU s", "slowest", "fastest", "ratio", "to", "target"):
        made.add_column(name, justify="left" if name in ("case", "to") else "right", no_wrap=True)
    for row in rows:
        made.add_row(
            row.case,
            f"{row.num_requests:,}",
            f"{row.cpu_seconds:.2f}",
            f"{row.rate:,.0f}",
            f"{row.slowest:,.0f}",
            f"{row.fastest:,.0f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            "" if row.ratio is None else row.baseline,
            _verdict(row),
        )
    return made


def markdown(rows: Sequence[Row], drawn: Sequence[str]) -> str:
    """The table of docs/performance.md, and the machine it is of."""
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [
        f"{machine}; traces: {'drawn look-alikes of ' + ', '.join(drawn) if drawn else 'the public ones'}.",
        "",
        "| row | requests | per CPU second | slowest to fastest repeat | ratio | target |",
        "|---|--:|--:|--:|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} to {row.baseline}"
        spread = f"{row.slowest:,.0f} to {row.fastest:,.0f}"
        lines.append(f"| {row.case} | {row.num_requests:,} | {row.rate:,.0f} | {spread} | {ratio} | {_verdict(row)} |")
    return "\n".join(lines) + "\n"


def _verdict(row: Row) -> str:
    return "" if row.target is None else f"{row.target:,.0f} {'met' if row.rate >= row.target else 'missed'}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    parser.add_argument("--repeat", type=int, default=3, help="times each row is run (default %(default)s)")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--requests", type=int, help="use only the first so many of each trace")
    options = parser.parse_args(arguments)
    if options.repeat < 1 or (options.requests is not None and options.requests < 1):
        parser.error("--repeat and --requests must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        traces = Traces(Path(folder), options.requests)
        chosen = [case for case in cases(traces) if options.only in case.name]
        rows = measure(chosen, options.repeat, _progress)
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows, traces.drawn))
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
        told = {**machine, "look_alikes": traces.drawn, "rows": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else 132).print(table(rows, traces.drawn))
    return 0


def _progress(row: Row) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{row.case}: {row.rate:,.0f}\n")


if __name__ == "__main__":
    raise SystemExit(main())
