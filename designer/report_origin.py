"""What it takes to come to the same report again: versions, hashes, settings, and the command."""

from __future__ import annotations

import hashlib
import html
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

from designer.findings import Findings
from designer.html_parts import note, table

_OPTIONS = {
    "proposer": "--proposer",
    "target": "--target",
    "budget": "--budget",
    "seed": "--seed",
    "deadline_seconds": "--deadline",
    "ablation_seeds": "--ablation-seeds",
    "regime_seeds": "--regime-seeds",
    "why_seeds": "--why-seeds",
}
_PROTOCOL = {
    "train_seeds": "--train-seeds",
    "validation_seeds": "--validation-seeds",
    "sealed_seeds": "--sealed-seeds",
    "finalists": "--finalists",
    "margin": "--margin",
    "max_looks": "--looks",
}


def origin_section(findings: Findings) -> Iterator[str]:
    """The last section of a page."""
    run = findings.run
    rows = [
        ("begun", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.at))),
        ("scenario", f"{run.scenario_name}, SHA-256 of all that decides {run.scenario_hash}"),
        *([("winner", f"SHA-256 of its bytes {findings.frozen.digest}")] if findings.frozen else []),
        *([("comparator", f"SHA-256 {findings.frozen.comparator}")] if findings.frozen else []),
        *((f"{name} at each start", version) for name, version in sorted(findings.builds.items())),
        ("settings", ", ".join(f"{key} {_shown(value)}" for key, value in sorted(_brief(run.settings)) if value)),
    ]
    yield "<h2 id='origin'>To come to it again</h2>" + table(("", ""), rows)
    yield f"<p>The same search: <code>{html.escape(command(run.scenario_name, run.settings))}</code></p>"
    yield note(
        "Train seeds are drawn from --seed, so the search proposes the same candidates again. Validation and sealed "
        "seeds are drawn from a secret of the run, which is in its ledger: with the ledger every number of this page "
        "can be computed again; without it, a new run draws seeds that nobody has seen."
    )


def command(scenario: str, settings: Mapping[str, Any]) -> str:
    """``designer run`` with these settings; models are left to a file of their own, to be named."""
    words = ["designer", "run", "--scenario", scenario]
    for key, option in _OPTIONS.items():
        words += [option, f"{settings[key]}"] if key in settings else []
    for key, option in _PROTOCOL.items():
        words += [option, f"{settings['protocol'][key]}"] if key in settings["protocol"] else []
    for name in ("baseline", "reference"):
        words += [word for text in settings[f"{name}s"] for word in (f"--{name}", text)]
    words += [] if settings.get("control", True) else ["--no-control"]
    words += ["--llm", "MODELS.toml"] if settings.get("llm") else []
    return shlex.join(words)


def _brief(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of prompts, which are pages of text, the SHA-256."""
    for key, value in settings.items():
        if key == "llm" and value:
            text = json.dumps(value.get("prompts"), sort_keys=True)
            value = {**value, "prompts": f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"}
        yield key, value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) + ")"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
