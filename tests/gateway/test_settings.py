"""Every limit and timeout of the configuration reaches the part it is for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.config import Config, FailureSection, LimitsSection, TimeoutsSection
from gateway.config_file import load_config
from gateway.config_values import Section
from gateway.errors import ConfigError, one_line
from gateway.settings import admin_token, http_settings, pool_configs, replica_templates

NOT_OF_THE_DATA_PLANE = {"drain_seconds", "lame_duck_seconds"}


@pytest.mark.parametrize(("table", "section"), [("limits", LimitsSection), ("timeouts", TimeoutsSection)])
def test_each_key_changes_something(table: str, section: type[Section]) -> None:
    plain = http_settings(Config())
    for key, field in section.model_fields.items():
        value = ("/sleep",) if key == "administrative_paths" else field.default + 1
        changed = http_settings(load_config(amend=lambda t, k=key, v=value: t.update({table: {k: v}})))  # type: ignore[misc]
        differ = [f.name for f in fields(plain) if getattr(plain, f.name) != getattr(changed, f.name)]
        assert (len(differ) == 1) is (key not in NOT_OF_THE_DATA_PLANE), key


def test_the_defaults_are_the_data_planes_own() -> None:
    assert http_settings(Config()) == type(http_settings(Config()))()


def test_a_pool_is_made_of_its_tables() -> None:
    pool = {"name": "p", "queue": {"max_seconds": 2.0}, "replicas": {"v": {"min": 1, "max": 2}}}
    config = load_config(
        amend=lambda t: t.update(pool=[pool], limits={"max_attempts": 5}, policy={"retire_failures": 7})
    )
    (made,) = pool_configs(config)
    assert (made.name, made.max_queue_seconds, made.max_attempts, made.guard_failures) == ("p", 2.0, 5, 7)
    assert made.replicas == {"v": (1, 2)}
    assert replica_templates(config)["p", "v"].max == 2


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = load_config(amend=lambda t: t.update(admin={"token_file": str(path)}))
    with pytest.raises(ConfigError, match=r"admin\.token_file: .* cannot be read"):
        admin_token(config)
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty; write the token into it"):
        admin_token(config)
    path.write_text("s3cret\n")
    assert admin_token(config) == "s3cret"
    assert admin_token(Config()) is None


def test_one_line_is_one_line() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 10, 5) == "xxxx…"


def test_each_key_of_failures_changes_something() -> None:
    (plain,) = pool_configs(Config())
    for key, field in FailureSection.model_fields.items():
        if key == "retry_timeouts":
            assert http_settings(load_config(amend=lambda t: t.update(failure={"retry_timeouts": True}))).retry_timeouts
            continue
        value = field.default + 1 if key != "max_resting_share" else 0.5
        (changed,) = pool_configs(load_config(amend=lambda t, k=key, v=value: t.update(failure={k: v})))  # type: ignore[misc]
        assert changed != plain, key
