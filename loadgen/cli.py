"""The ``loadgen`` command. Parses, calls, prints; one line on stderr and the right exit status when it cannot."""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, get_args

import orjson
import typer
from rich.console import Console

from loadgen.convert import Format, convert, cut
from loadgen.describe import describe
from loadgen.launch import LaunchError, send
from loadgen.plan import Endpoint, MaxTokens, Plan, PlanError
from loadgen.records import RecordError, read_records
from loadgen.report import summarize
from loadgen.synth import Arrivals, Lengths, SynthError, Workload, synthesize
from loadgen.tables import print_description, print_report
from loadgen.trace import TraceError, read_trace, write_trace

INPUT_ERRORS = (PlanError, RecordError, SynthError, TraceError)
_USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What typer raises for wrong usage; newer ones carry a click of their own, so it has no importable name."""

app = typer.Typer(
    help="An open-loop load generator for any OpenAI-compatible server.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[str, typer.Option("--url", help="The server, as in http://127.0.0.1:8000.")]
ModelOption = Annotated[str | None, typer.Option(help="Sent with every request.  [default: the trace's, or none]")]
KeyOption = Annotated[
    str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Bearer token; better in the environment.")
]
RecordsOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write one line of JSON for each request.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for a whole request.")]
StreamOption = Annotated[bool, typer.Option("--stream/--no-stream", help="Without a stream there is no TTFT.")]
EndpointOption = Annotated[str, typer.Option(help="chat or completions.")]
SaltOption = Annotated[
    str | None, typer.Option(help="Changes the text of all prompts.  [default: another for each run]")
]
LimitOption = Annotated[float | None, typer.Option(help="Only the first so many seconds of the trace.")]
MaxRequestsOption = Annotated[int | None, typer.Option(help="At most so many requests.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Trace to write; .gz compresses.")]
SeedOption = Annotated[int, typer.Option(help="The same seed gives the same trace.")]
HeaderOption = Annotated[
    bool,
    typer.Option(
        "--output-header/--no-output-header",
        help="Send the true output length as x-ranvier-output-tokens; only the mock worker honours it.",
    ),
]


@app.callback(invoke_without_command=True)
def _loadgen(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"loadgen {metadata.version('ranvier')}")
        raise typer.Exit


@app.command("synth", epilog="Example: loadgen synth --rate 5 --duration 600 --arrivals gamma --cv 3 -o trace.jsonl")
def synth_command(
    output: OutputOption,
    rate: Annotated[float, typer.Option(help="Requests a second, on average.")] = 5.0,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 600.0,
    arrivals: Annotated[str, typer.Option(help="poisson, gamma, lognormal, constant or diurnal.")] = "poisson",
    cv: Annotated[float, typer.Option(help="Burstiness of gamma and lognormal gaps; 1 is like Poisson.")] = 2.0,
    period: Annotated[float, typer.Option(help="Seconds from peak to peak of diurnal.")] = 3600.0,
    swing: Annotated[float, typer.Option(help="How far diurnal goes from the mean rate, 0 to 1.")] = 0.8,
    input_median: Annotated[float, typer.Option(help="Tokens; lengths are log-normal.")] = 512.0,
    input_sigma: Annotated[float, typer.Option(help="Of the logarithm; 0: all the same.")] = 1.0,
    input_max: Annotated[int, typer.Option()] = 32_768,
    output_median: Annotated[float, typer.Option()] = 128.0,
    output_sigma: Annotated[float, typer.Option()] = 0.9,
    output_max: Annotated[int, typer.Option()] = 4096,
    prefixes: Annotated[int, typer.Option(help="Shared prefixes; the n-th is as popular as 1/n.")] = 0,
    prefix_tokens: Annotated[int, typer.Option(help="Length of each, in blocks of 512.")] = 1024,
    prefix_share: Annotated[float, typer.Option(help="Fraction of requests that begin with one.")] = 1.0,
    max_tokens: Annotated[str, typer.Option(help="Drawn from these, whatever the output; none: not set.")] = (
        "512,1024,2048,4096"
    ),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a synthetic trace."""
    workload = Workload(
        rate=rate,
        duration=duration,
        inputs=Lengths(input_median, input_sigma, input_max),
        outputs=Lengths(output_median, output_sigma, output_max),
        arrivals=_one_of("arrivals", arrivals, Arrivals),
        cv=cv,
        period=period,
        swing=swing,
        num_prefixes=prefixes,
        prefix_tokens=prefix_tokens,
        prefix_share=prefix_share,
        max_tokens=_integers("max-tokens", max_tokens),
        seed=seed,
    )
    _written(output, write_trace(output, synthesize(workload)), as_json)


@app.command(
    "convert", epilog="Example: loadgen convert AzureLLMInferenceTrace_conv.csv -o azure.jsonl --limit-seconds 600"
)
def convert_command(
    source: Annotated[Path, typer.Argument(help="A published trace, plain or gzipped.")],
    output: OutputOption,
    source_format: Annotated[
        str, typer.Option("--format", help="auto, azure (2023 and 2024), burstgpt or mooncake.")
    ] = "auto",
    limit_seconds: LimitOption = None,
    max_requests: MaxRequestsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Convert a published trace."""
    requests = convert(source, _one_of("format", source_format, Format))
    _written(output, write_trace(output, cut(requests, limit_seconds, max_requests)), as_json)


@app.command("describe", epilog="Example: loadgen describe trace.jsonl")
def describe_command(
    trace: Annotated[Path, typer.Argument(help="A trace, plain or gzipped.")],
    as_json: JsonOption = False,
) -> None:
    """Tell what a trace holds."""
    told = describe(read_trace(trace)).as_dict()
    if as_json:
        return _print_json(told)
    return print_description(str(trace), told, Console())


@app.command("replay", epilog="Example: loadgen replay trace.jsonl --url http://127.0.0.1:8000 --records records.jsonl")
def replay_command(
    trace: Annotated[Path, typer.Argument(help="A trace, plain or gzipped.")],
    url: UrlOption,
    model: ModelOption = None,
    api_key: KeyOption = None,
    speed: Annotated[float, typer.Option(help="Trace seconds in a second.")] = 1.0,
    limit_seconds: LimitOption = None,
    max_requests: MaxRequestsOption = None,
    records: RecordsOption = None,
    timeout: TimeoutOption = 600.0,
    stream: StreamOption = True,
    endpoint: EndpointOption = "chat",
    max_tokens: Annotated[
        str,
        typer.Option(help="trace: its own, else drawn; none: not sent; forced: the output length, with min_tokens."),
    ] = "trace",
    output_header: HeaderOption = True,
    max_inflight: Annotated[int, typer.Option(help="Requests beyond it wait, and their lag shows.")] = 4096,
    salt: SaltOption = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn for fields the trace has not.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Send a trace's requests at their times, whatever the server does.

    Latency is counted from the intended send time. Exit status 1: nothing was completed, or the client fell behind
    its times, so that the run is invalid.
    """
    base = _plan(url, endpoint, model, api_key, stream, timeout, output_header, seed, records)
    plan = replace(
        base,
        trace=str(trace),
        speed=speed,
        limit_seconds=limit_seconds,
        max_requests=max_requests,
        max_inflight=max_inflight,
        max_tokens=_one_of("max-tokens", max_tokens, MaxTokens),
        salt=base.salt if salt is None else salt,
    )
    _finish(str(trace), send(plan), as_json)


@app.command("run", epilog="Example: loadgen run --url http://127.0.0.1:8000 --rate 10 --duration 30")
def run_command(
    url: UrlOption,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 1.0,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 10.0,
    concurrency: Annotated[
        int | None, typer.Option(help="Closed loop instead: so many at a time, rate x duration in all.")
    ] = None,
    arrivals: Annotated[str, typer.Option(help="constant, poisson, gamma, lognormal or diurnal.")] = "constant",
    input_tokens: Annotated[float, typer.Option(help="Of every prompt.")] = 256.0,
    output_tokens: Annotated[float, typer.Option(help="Of every answer, where the server lets it be set.")] = 64.0,
    model: ModelOption = None,
    api_key: KeyOption = None,
    records: RecordsOption = None,
    timeout: TimeoutOption = 600.0,
    stream: StreamOption = True,
    endpoint: EndpointOption = "chat",
    output_header: HeaderOption = True,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Send a quick load, without a trace."""
    workload = Workload(
        rate=rate,
        duration=duration,
        inputs=Lengths(input_tokens),
        outputs=Lengths(output_tokens),
        arrivals=_one_of("arrivals", arrivals, Arrivals),
        max_tokens=(max(1, round(output_tokens)),),
        seed=seed,
    )
    base = _plan(url, endpoint, model, api_key, stream, timeout, output_header, seed, records)
    _finish(url, send(replace(base, workload=workload, concurrency=concurrency)), as_json)


@app.command("report", epilog="Example: loadgen report before.jsonl after.jsonl")
def report_command(
    records: Annotated[list[Path], typer.Argument(help="Files written by --records.")],
    as_json: JsonOption = False,
) -> None:
    """Summarize the records of one or more runs."""
    reports = {str(path): summarize(read_records(path)).as_dict() for path in records}
    if as_json:
        return _print_json(reports)
    for path, report in reports.items():
        print_report(path, report, Console())
    return None


def _plan(
    url: str,
    endpoint: str,
    model: str | None,
    api_key: str | None,
    stream: bool,
    timeout: float,
    output_header: bool,
    seed: int,
    records: Path | None,
) -> Plan:
    """What every way of sending has in common; the salt is the run's own."""
    run_id = _run_id()
    return Plan(
        url=url,
        endpoint=_one_of("endpoint", endpoint, Endpoint),
        model=model,
        api_key=api_key,
        stream=stream,
        timeout=timeout,
        output_header=output_header,
        salt=run_id,
        run_id=run_id,
        seed=seed,
        records=_path(records),
    )


def _finish(name: str, report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(report)
    else:
        print_report(name, report, Console())
    if "interrupted" in report["errors"]:
        raise typer.Exit(130)
    if not report["valid"]:
        first = next(iter(report["errors"]), None) if not report["num_completed"] else None
        raise LaunchError(report["verdict"] + (f" ({first})" if first else ""), 1)


def _written(output: Path, count: int, as_json: bool) -> None:
    if as_json:
        _print_json({"trace": str(output), "num_requests": count})
    else:
        typer.echo(f"{output}: {count} requests")


def _one_of(option: str, value: str, literal: Any) -> Any:
    choices = get_args(literal)
    if value not in choices:
        raise PlanError(f"--{option}: must be one of {', '.join(choices)}, not {value!r}")
    return value


def _integers(option: str, text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"--{option}: must be whole numbers joined by commas, or none, not {text!r}") from None


def _run_id() -> str:
    """Another for each run, so that a gateway's log never shows one request id twice."""
    return f"lg-{uuid.uuid4().hex[:8]}"


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + os.linesep)


def main() -> None:
    """The entry point: exits 0 only when the command did its job, 2 for wrong usage or a bad file."""
    try:
        status = app(standalone_mode=False, prog_name="loadgen")
    except _USAGE_ERROR as error:
        message = getattr(error, "format_message", error.__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{message}\n")
            sys.exit(2)
        _exit(f"{' '.join(message.split()).rstrip('.')}; loadgen --help lists commands and options", 2)
    except INPUT_ERRORS as error:
        _exit(str(error), 2)
    except LaunchError as error:
        _exit(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def _exit(message: str, status: int) -> None:
    if message:
        sys.stderr.write(f"error: {message}\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
