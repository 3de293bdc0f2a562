"""Descriptions and reports as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_LATENCIES = (
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("e2e", "end to end"),
    ("max_gap", "longest pause"),
    ("lag", "send lag"),
)


def print_description(path: str, told: Mapping[str, Any], console: Console) -> None:
    """Of one trace, as ``Description.as_dict`` gives it."""
    console.print(
        f"{path}: {told['num_requests']:,} requests in {told['duration']:,.1f} s, {told['rate']:.2f} a second, "
        f"coefficient of variation of the gaps {told['gap_cv']:.2f}",
        highlight=False,
        soft_wrap=True,
    )
    table = _table("tokens", "mean", "p50", "p90", "p99", "max")
    for name in ("input_length", "output_length"):
        one = told[name]
        values = (one["mean"], one["p50"], one["p90"], one["p99"], one["maximum"])
        table.add_row(name, *(f"{value:,.0f}" for value in values))
    console.print(table)
    reuse = told["prefix_reuse"]
    shared = "no hash ids" if reuse is None else f"{reuse:.1%} of the prompt tokens in prefixes seen before"
    console.print(
        f"prefixes: {shared}; max_tokens: {told['num_with_max_tokens']:,}; models: {told['num_models']}, "
        f"tenants: {told['num_tenants']}, sessions: {told['num_sessions']}",
        highlight=False,
        soft_wrap=True,
    )


def print_report(name: str, report: Mapping[str, Any], console: Console) -> None:
    """Of one run, as ``Report.as_dict`` gives it."""
    console.print(
        f"{name}: {report['num_completed']:,} of {report['num_requests']:,} requests completed in "
        f"{report['duration']:.1f} s: {report['request_rate']:.2f} requests and "
        f"{report['output_token_rate']:,.0f} output tokens a second",
        highlight=False,
        soft_wrap=True,
    )
    table = _table("ms", "mean", "p50", "p90", "p99", "max")
    for key, title in _LATENCIES:
        one = report[key]
        if one is not None:
            values = (one["mean"], one["p50"], one["p90"], one["p99"], one["maximum"])
            table.add_row(title, *(_milliseconds(value) for value in values))
    console.print(table)
    for title, counts in (("failures", report["errors"]), ("workers", report["workers"])):
        if counts:
            parts = ", ".join(f"{key}: {count:,}" for key, count in counts.items())
            console.print(f"{title}: {parts}", highlight=False, soft_wrap=True)
    console.print(f"run: {report['verdict']}", highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}"
