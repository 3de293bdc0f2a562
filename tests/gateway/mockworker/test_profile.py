"""Worker profiles: the built-in ones load, and a bad file gets one line that names the field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.mockworker.profile import ProfileError, load_profile, parse_profile, profile_names

GOOD = """
description = "a test"
[sources]
s = "made up"
[engine]
num_gpu_blocks = { value = 100, source = "s" }
watermark = { value = 0.01, source = "s" }
[step]
weights_ms = { value = 10.8, source = "s", error = "18 %" }
fixed_ms = { value = 5, source = "s" }
token_us = { value = 55.2, source = "s" }
decode_ms = { value = 0.7, source = "s" }
decode_context_ns = { value = 82, source = "s" }
prefill_context_ns = { value = 3.4, source = "s" }
host_step_ms = { value = 1, source = "s" }
host_sequence_us = { value = 5, source = "s" }
host_request_ms = { value = 15, source = "s" }
"""


def test_coefficients_become_exact_picoseconds() -> None:
    profile = parse_profile("x", GOOD)
    assert (profile.weights_ps, profile.fixed_ps, profile.token_ps) == (10_800_000_000, 5_000_000_000, 55_200_000)
    assert (profile.decode_ps, profile.decode_context_ps, profile.prefill_context_ps) == (700_000_000, 82_000, 3_400)
    assert (profile.host_step_ps, profile.host_sequence_ps) == (1_000_000_000, 5_000_000)
    assert profile.host_request_ps == 15_000_000_000
    assert profile.engine.num_gpu_blocks == 100
    assert profile.engine.watermark == 0.01
    assert profile.notes is not None
    assert profile.notes["step.weights_ms"].source == "made up"
    assert profile.notes["step.weights_ms"].error == "18 %"


@pytest.mark.parametrize("name", profile_names())
def test_every_built_in_profile_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.weights_ps > 0
    assert profile.notes is not None
    assert all(note.source for note in profile.notes.values())


def test_the_paper_s_worker() -> None:
    profile = load_profile("a10-llama3-8b")
    engine = profile.engine
    assert (engine.num_gpu_blocks, engine.max_num_batched_tokens, engine.max_num_seqs) == (2240, 8192, 128)
    assert engine.watermark_blocks == 22


def test_a_profile_of_one_s_own_is_loaded_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_profile(path) == replace(parse_profile("mine", GOOD), name="mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fixed_ms", "fixd_ms", "profile: step.fixd_ms: is not known here"),
        ('fixed_ms = { value = 5, source = "s" }', "", "profile: step.fixed_ms: is missing"),
        ("value = 82", "value = -1", "profile: step.decode_context_ns: must be at least 0"),
        ("value = 82", "value = nan", "profile: step.decode_context_ns.value: must be a number"),
        ("value = 82", 'value = "82"', "profile: step.decode_context_ns.value: must be a number"),
        ("value = 100,", "value = 100.0,", "profile: engine.num_gpu_blocks.value: must be an integer"),
        ("value = 100,", "value = 0,", "profile: engine: num_gpu_blocks must be at least 1, not 0"),
        ("value = 0.01", "value = 1.0", "profile: engine: watermark must be at least 0 and less than 1"),
        (
            'value = 82, source = "s"',
            'value = 82, source = "t"',
            "profile: step.decode_context_ns.source: must be a key",
        ),
        ('value = 82, source = "s"', 'value = 82, surce = "s"', "profile: step.decode_context_ns.surce: is not known"),
        ('{ value = 82, source = "s" }', "82", "profile: step.decode_context_ns: must be a table"),
        ("[step]", "[stp]", "profile: stp: is not known here"),
        ("[sources]", "[sources", "profile: not TOML"),
        ('description = "a test"', "", "profile: description: must be a string"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_field(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ProfileError) as caught:
        parse_profile("x", GOOD.replace(old, new, 1))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_step_must_take_time() -> None:
    free = (
        GOOD.replace("value = 10.8", "value = 0")
        .replace("value = 5,", "value = 0,")
        .replace("value = 1,", "value = 0,")
    )
    with pytest.raises(ProfileError, match="a step must take time"):
        parse_profile("x", free)


def test_an_unknown_name_lists_the_built_in_ones() -> None:
    with pytest.raises(ProfileError, match=r"no such profile; built in are .*a100-llama3-8b"):
        load_profile("a100")
    with pytest.raises(ProfileError, match="cannot read the profile"):
        load_profile("./missing.toml")
