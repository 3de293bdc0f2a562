"""The author's guide: its example conforms, and its tables name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.allowed import ALLOWED_MODULES
from policies.conformance import Effort, check, check_source
from policies.loader import CONTRACT_FIELDS, builtin_names, load_policies, parse_specs

GUIDE = Path(__file__).parents[2] / "docs" / "policies.md"


@pytest.fixture
def example(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "least_work.py"
    path.write_text(code)
    return path


def test_the_example_conforms_as_if_it_were_a_builtin(example):
    assert check(str(example), Effort(num_situations=400, num_steps=400)) == []
    assert check_source(example) == []
    assert "Source: " in example.read_text()


def test_the_set_it_is_served_in_loads(example):
    (text,) = re.findall(r"--policy \./least_work\.py(\S+)", GUIDE.read_text())
    assert len(load_policies(parse_specs(f"{example}{text}"), seed=0)) == 2


def test_every_field_is_explained_and_none_is_invented():
    text = GUIDE.read_text()
    section = text[text.index("## What you are given") : text.index("## Rules")]
    named = set(re.findall(r"`(\w+)`", section)) - {
        "None",
        "now",
        "Variant",
        "candidates",
        "request",
        "candidate",
        "pool",
    }
    assert named == CONTRACT_FIELDS - {"name", "now"}


def test_every_builtin_and_module_is_listed():
    text = GUIDE.read_text()
    table = text[text.index("## Built-in policies") :]
    for name in builtin_names():
        assert f"`{name}`" in table or f"`{name.rpartition('/')[2]}`" in table
    assert all(f"`{module}`" in text for module in ALLOWED_MODULES)
