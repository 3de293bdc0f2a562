"""Requests per CPU second of the engine alone: ``python -m tests.bench.bench_engine [--output-scale N] [TRACE]``.

Without a trace the workload is a look-alike of the Azure conversation trace of 2023 at four times its rate: the same
mean and spread of prompts, outputs and arrivals, drawn anew. A trace is JSONL with ``timestamp`` (ms),
``input_length`` and ``output_length``. Four engines of the A100 Llama-3-8B profile, 512 tokens a step, 128
sequences, round robin. Building the requests is not counted; handing them over is.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path

from gateway.mockworker.engine import PS_PER_SECOND, Engine, EngineRequest
from gateway.mockworker.profile import load_profile

NUM_WORKERS = 4
FOREVER = 10**9 * PS_PER_SECOND

Workload = list[tuple[int, EngineRequest]]


def look_alike(num_requests: int, output_scale: int = 1, seed: int = 0) -> Workload:
    """Prompts with mean 1155 and median 1020, outputs with mean 211 and median 129, 22 requests a second."""
    rng = random.Random(f"bench/{seed}")
    now, workload = 0.0, Workload()
    for index in range(num_requests):
        now += rng.expovariate(22.1)
        prompt = min(14050, 1 + int(rng.lognormvariate(6.93, 0.5)))
        output = min(1000, 1 + int(rng.lognormvariate(4.86, 0.95)))
        request = EngineRequest(str(index), prompt, output * output_scale)
        workload.append((int(now * PS_PER_SECOND), request))
    return workload


def read_trace(path: Path, time_scale: float, output_scale: int) -> Workload:
    workload = Workload()
    for index, line in enumerate(path.read_text().splitlines()):
        row = json.loads(line)
        arrival = int(row["timestamp"] * time_scale * (PS_PER_SECOND // 1000))
        request = EngineRequest(str(index), row["input_length"], row["output_length"] * output_scale)
        workload.append((arrival, request))
    return workload


def run(workload: Workload) -> tuple[float, int, int]:
    """CPU seconds, requests finished, tokens made."""
    profile = load_profile("a100-llama3-8b")
    config = replace(profile.engine, max_num_batched_tokens=512, max_num_seqs=128)
    engines = [Engine(config, profile, report_tokens=False) for _ in range(NUM_WORKERS)]
    start = time.process_time()
    for index, (arrival, request) in enumerate(workload):
        engines[index % NUM_WORKERS].add(request, arrival)
    runs = [run for engine in engines for run in engine.advance(FOREVER)]
    seconds = time.process_time() - start
    tokens = sum(engine.num_output_tokens_at(FOREVER) for engine in engines)
    return seconds, sum(len(run.finished) for run in runs), tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, help="JSONL; a drawn look-alike when left out")
    parser.add_argument("--requests", type=int, default=19_366, help="of the look-alike")
    parser.add_argument("--time-scale", type=float, default=0.25, help="factor on the trace's arrival times")
    parser.add_argument("--output-scale", type=int, default=1, help="factor on output lengths")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    if options.trace:
        workload = read_trace(options.trace, options.time_scale, options.output_scale)
    else:
        workload = look_alike(options.requests, options.output_scale)
    results = [run(workload) for _ in range(options.repeat)]
    _, finished, tokens = results[0]
    rates = sorted(finished / seconds for seconds, _, _ in results)
    print(f"{finished} requests, {tokens} output tokens")
    print(f"requests per CPU second: {rates[0]:.0f} to {rates[-1]:.0f}, median {rates[len(rates) // 2]:.0f}")


if __name__ == "__main__":
    main()
