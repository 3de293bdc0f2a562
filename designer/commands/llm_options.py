"""The options of ``designer run`` that concern models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from designer.proposers.llm.keys import check_keys
from designer.proposers.llm.settings import LlmSettingsError, make_settings

ConfigOption = Annotated[
    Path | None, typer.Option("--llm", help="TOML for --proposer llm: roles, prices, caps; see docs/llm.md.")
]
ModelOption = Annotated[str | None, typer.Option(help="Model of every role (--proposer llm).")]
BaseUrlOption = Annotated[
    str | None, typer.Option(help="An OpenAI-compatible API, as in http://127.0.0.1:8000/v1 (--proposer llm).")
]
PriceOption = Annotated[
    str | None, typer.Option(help="Dollars a million tokens, IN,OUT; 0 for a server of your own (--proposer llm).")
]
DollarsOption = Annotated[float | None, typer.Option(min=0, help="Never spend more (--proposer llm).")]
PromptsOption = Annotated[
    str | None, typer.Option(help="small, or a folder whose Markdown replaces prompts (--proposer llm).")
]


def llm_settings(
    proposer: str,
    *,
    config: Path | None,
    model: str | None,
    base_url: str | None,
    price: str | None,
    max_dollars: float | None,
    prompts: str | None,
) -> dict[str, Any] | None:
    """What goes into the run's settings; None for proposers without models.

    Raises:
        LlmSettingsError: something is missing or wrong, or is for another proposer.
    """
    given = (config, model, base_url, price, max_dollars, prompts)
    if proposer != "llm":
        if any(value is not None for value in given):
            raise LlmSettingsError(
                "--llm, --model, --base-url, --price, --max-dollars and --prompts go with --proposer llm"
            )
        return None
    settings = make_settings(
        config, model=model, base_url=base_url, price=price, max_dollars=max_dollars, prompts=prompts
    )
    check_keys(settings)
    return settings.model_dump(mode="json")
