"""``designer calibrate``: a worker profile from measurements of a real worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from designer.calibrate import (
    CalibrationError,
    Coefficients,
    Fit,
    LoadCheck,
    Plan,
    check_load,
    fit,
    load_asks,
    profile_of,
    sweep,
)
from designer.profile_text import profile_toml
from designer.worker_probe import HttpProber
from gateway.mockworker.engine import EngineConfig


def calibrate_command(
    url: Annotated[str, typer.Argument(help="A worker with no other load, as in http://127.0.0.1:8000.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The profile to write.")],
    model: Annotated[str | None, typer.Option(help="Model to ask for.")] = None,
    description: Annotated[str, typer.Option(help="Of the worker: its card, model and flags.")] = "",
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="As the worker has it.")] = 2048,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="As the worker has it.")] = 256,
    async_scheduling: Annotated[bool, typer.Option(help="As the worker has it.")] = False,
    num_gpu_blocks: Annotated[int | None, typer.Option(min=1, help="By default asked of the worker.")] = None,
    block_size: Annotated[int | None, typer.Option(min=1, help="By default asked of the worker.")] = None,
    longest_prompt: Annotated[int, typer.Option(min=16, help="Of the sweep, tokens.")] = 8192,
    most_concurrent: Annotated[int, typer.Option(min=1, help="Requests side by side in the sweep.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Of each measurement; its median counts.")] = 5,
    check_seconds: Annotated[float, typer.Option(min=0, help="Of a load it is not fitted to; 0: none.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and of the check's load.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a worker over HTTP, fit the engine model's step time, and write a worker profile.

    Example: designer calibrate http://127.0.0.1:8000 -o my-worker.toml --max-num-seqs 128
    """
    with HttpProber(url, model, seed) as prober:
        config = _config(prober, num_gpu_blocks, block_size, max_num_batched_tokens, max_num_seqs, async_scheduling)
        plan = Plan.for_config(config, longest_prompt, most_concurrent, repeats)
        fitted = fit(sweep(prober, plan, config))
        profile = profile_of(fitted, config, out.stem, description or f"Calibrated at {url}")
        check = None
        if check_seconds:
            check = check_load(prober, load_asks(fitted, plan, config, check_seconds, seed), profile)
    _write(out, profile_toml(profile, *_sources(fitted, check)))
    if as_json:
        typer.echo(json.dumps(to_dict(fitted, check), indent=2))
    else:
        _print(fitted, check, out, Console())


def _config(
    prober: HttpProber,
    num_gpu_blocks: int | None,
    block_size: int | None,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    async_scheduling: bool,
) -> EngineConfig:
    """What the worker tells, under what the user says.

    Raises:
        CalibrationError: the size of its KV cache is known from neither.
    """
    told = prober.cache_config()
    blocks = num_gpu_blocks or _told_blocks(told)
    if not blocks:
        raise CalibrationError("the worker does not tell its KV blocks (vllm:cache_config_info): say --num-gpu-blocks")
    config = EngineConfig(
        num_gpu_blocks=blocks,
        block_size=block_size or int(told.get("block_size", 16)),
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=told.get("enable_prefix_caching", "True") == "True",
        async_scheduling=async_scheduling,
    )
    return replace(config, max_model_len=prober.max_model_len() or 0)


def _told_blocks(told: dict[str, str]) -> int:
    """vLLM keeps one block of those it tells as a null block."""
    text = told.get("num_gpu_blocks", "")
    return int(text) - 1 if text.isdigit() else 0


def _sources(fitted: Fit, check: LoadCheck | None) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    held_out = _percent(fitted.errors(held_out=True))
    sources = {
        "fit": f"designer calibrate: {len(fitted.points)} measurements of a worker; error of those held out {held_out}",
        "worker": "Told by the worker, or to the calibration",
        "inside": "Cannot be measured apart: inside weights_ms and fixed_ms",
    }
    if check is not None:
        errors = ", ".join(f"{key.replace('_', ' ')} {check.error(key):+.1%}" for key in check.measured)
        sources["check"] = f"{check.num_requests} requests of a load it was not fitted to: {errors}"
    by_field = dict.fromkeys(_fields(), "fit") | {"decode_ps": "inside", "host_step_ps": "inside", "": "worker"}
    return sources, by_field, {}


def _fields() -> list[str]:
    return [f"{name.rpartition('_')[0]}_ps" for name in Coefficients._fields]


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"{out}: cannot be written: {error.strerror}") from None


def to_dict(fitted: Fit, check: LoadCheck | None) -> dict[str, Any]:
    """JSON scalars; errors are model over measurement, less one."""
    return {
        "coefficients": fitted.coefficients._asdict(),
        "points": [
            {
                "kind": point.kind,
                "label": point.label,
                "held_out": point.held_out,
                "measured_seconds": point.seconds,
                "modelled_seconds": fitted.coefficients.seconds(point),
                "error": fitted.error(point),
            }
            for point in fitted.points
        ],
        "check": None if check is None else asdict(check) | {"errors": {k: check.error(k) for k in check.measured}},
    }


def _print(fitted: Fit, check: LoadCheck | None, out: Path, console: Console) -> None:
    table = Table(title="Measured and modelled, milliseconds")
    for name in ("probe", "of", "measured", "model", "error", ""):
        table.add_column(name, justify="left" if name in ("probe", "of", "") else "right", no_wrap=True)
    for point in fitted.points:
        measured, modelled = point.seconds * 1e3, fitted.coefficients.seconds(point) * 1e3
        told = (f"{measured:.2f}", f"{modelled:.2f}", f"{fitted.error(point):+.1%}")
        table.add_row(point.kind, point.label, *told, "held out" if point.held_out else "")
    console.print(table)
    for name, value in fitted.coefficients._asdict().items():
        console.print(f"{name:20} {value:.4g}")
    console.print(
        f"error: fitted {_percent(fitted.errors(held_out=False))}; held out {_percent(fitted.errors(held_out=True))}"
    )
    if check is not None:
        console.print(f"a load it was not fitted to, {check.num_requests} requests at {check.rate:.2f} a second:")
        for key, seconds in check.measured.items():
            console.print(f"  {key:20} {seconds * 1e3:9.1f} ms, model {check.error(key):+.1%}")
    console.print(f"written: {out}")


def _percent(errors: Sequence[float]) -> str:
    return f"{mean(errors):.1%} on average, {max(errors):.1%} at worst" if errors else "nothing"
