"""Words without code, in every form that code takes."""

from __future__ import annotations

import json

import pytest

from designer.proposers.llm.prose import prose, written
from tests.support.scripted_models import GOOD, wanted

CODE_LINES = ("def route", "return min", "num_inflight_prompt_tokens)", "class Policy", "def create", "return Policy()")
TALK = "Short prompts go first.\n{}\nIt should win a tenth."


def dumped(source: str = GOOD) -> str:
    return json.dumps({"tool": "run_experiment", "arguments": wanted(source)})


@pytest.mark.parametrize(
    "form",
    [
        f"```python\n{GOOD}```",
        f"~~~\n{GOOD}~~~",
        f"```\n{GOOD}",
        GOOD,
        "\n".join(f"    {line}" for line in GOOD.splitlines()),
        "\n".join(f"> {line}" for line in GOOD.splitlines()),
        dumped(),
        json.dumps({"source": GOOD}),
        json.dumps({"name": "run_experiment", "parameters": {"source": GOOD}}, indent=1),
        f"<tool_call>{dumped()}</tool_call>",
        dumped()[:-20],
        dumped().replace("}", ""),
        dumped().replace('"', "'"),
        f"<function=run_experiment><parameter=source>{GOOD}</parameter></function>",
        GOOD.replace("\n", "\\n"),
        " ".join(GOOD.split()),
        "`return min(candidates)` and `class Policy: pass`",
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_no_form_of_code_is_left(form: str, known: bool) -> None:
    found = prose(TALK.format(form), [GOOD] if known else [])
    for line in CODE_LINES:
        assert line not in found
    assert found.startswith("Short prompts go first.")


@pytest.mark.parametrize(
    "text",
    [
        "If requests wait, the mean rises: why? Return to the queue (held: 12 %) and look.",
        "p99_ttft = 12.3 s, mean = 4",
        "- candidate 3: predicted 0.900, observed 0.871. For long prompts, `num_cached_tokens` tells more.",
        "with short prompts first, a tenth is won; {not json}\nand 3 > 2",
        "breaks the contract: line 3: import: os is not allowed",
    ],
)
def test_words_are_kept(text: str) -> None:
    assert prose(text, [GOOD]) == text


def test_what_was_written_is_known_wherever_it_stands() -> None:
    line = "weight = candidate.worker.num_waiting * 3"
    assert line not in prose(f"the key is that {line} holds", [f"def create(rng):\n    {line}  # held\n"])
    assert prose("shortest first", ['"""Shortest first."""\nx = 1\n']) == "shortest first"
    assert "value[0]" not in prose("so value[0].x is it", ["broken (\n  value[0].x\n"])


def test_the_code_of_a_reply_is_found_by_its_form() -> None:
    native = {"function": {"name": "run_experiment", "arguments": json.dumps(wanted("a = 1"))}}
    broken = {"function": {"name": "run_experiment", "arguments": '{"source": "b = 2\\nc = 3'}}
    reply = {"content": f"```python\nd = 4\n```\n{dumped('e = 5')}", "tool_calls": [native, broken]}
    found = "\n".join(written(reply))
    assert [name for name in "abcde" if f"{name} = " in found] == list("abcde")
    assert written({"content": None}) == []
