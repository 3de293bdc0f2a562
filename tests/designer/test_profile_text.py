"""A written profile is the profile, for every one of the package."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from designer.profile_text import STEP_KEYS, profile_toml
from gateway.mockworker.profile import WorkerProfile, load_profile, parse_profile, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_what_is_written_is_read_again(name: str) -> None:
    profile = load_profile(name)
    text = profile_toml(profile, {"built_in": f'profile "{name}"'}, {"": "built_in"})
    again = parse_profile(name, text)
    assert replace(again, notes=None) == replace(profile, notes=None)
    assert again.notes is not None
    assert again.notes["step.token_us"].source == f'profile "{name}"'


def test_sources_and_errors_go_with_their_fields() -> None:
    text = profile_toml(
        replace(load_profile("demo"), token_ps=1),
        {"fit": "a fit", "asked": "a server"},
        {"": "fit", "block_size": "asked"},
        {"token_ps": 'up to "3" %'},
    )
    notes = parse_profile("x", text).notes
    assert notes is not None
    assert notes["engine.block_size"].source == "a server"
    assert (notes["step.token_us"].source, notes["step.token_us"].error) == ("a fit", 'up to "3" %')
    assert "value = 0.000001," in text


def test_every_time_has_a_key() -> None:
    assert {f.name for f in fields(WorkerProfile) if f.name.endswith("_ps")} == set(STEP_KEYS)
