"""Settings from a file and from the command line, and what is missing said in its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from designer.proposers.llm.settings import LlmSettings, LlmSettingsError, make_settings, stored_settings

FILE = """
mode = "sequential"
contexts = 3
prompts = "small"

[default]
model = "large"
base_url = "http://127.0.0.1:8000/v1"
price = { input = 2.5, output = 10 }

[supervisor]
model = "little"
price = { input = 0.1, output = 0.4 }

[caps]
dollars = 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "llm.toml"
    path.write_text(text)
    return path


def test_roles_take_what_is_theirs_and_the_rest_from_default(tmp_path: Path) -> None:
    settings = make_settings(write(tmp_path, FILE))
    assert [settings.role(name).model for name in ("researcher", "analyst", "supervisor")] == [
        *("large", "large", "little"),
    ]
    assert settings.supervisor.base_url == settings.researcher.base_url
    assert settings.supervisor.cost(1_000_000, 1_000_000) == pytest.approx(0.5)
    assert (settings.mode, settings.contexts, settings.caps.dollars, settings.caps.requests) == (
        *("sequential", 3, 3.0, 1000),
    )
    assert "{{contract_fields}}" in settings.prompts["researcher"]


def test_the_command_line_wins(tmp_path: Path) -> None:
    settings = make_settings(write(tmp_path, FILE), model="other", price="0", max_dollars=1.0)
    assert settings.supervisor.model == settings.researcher.model == "other"
    assert settings.researcher.cost(1e9, 1e9) == 0.0
    assert settings.caps.dollars == 1.0


def test_settings_survive_the_ledger() -> None:
    settings = make_settings(model="m", base_url="http://h/v1", price="0.15,0.6")
    assert LlmSettings.model_validate(settings.model_dump(mode="json")) == settings
    assert settings.researcher.price.output == 0.6


def test_the_limit_has_the_name_the_server_knows() -> None:
    here = make_settings(model="m", base_url="http://127.0.0.1/v1", price="0").researcher
    there = make_settings(model="m", base_url="https://api.openai.com/v1", price="0").researcher
    assert (here.limit_field, there.limit_field) == ("max_tokens", "max_completion_tokens")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "http://h/v1", "price": "0"}, "researcher: no model; give --model NAME"),
        ({"model": "m", "price": "0"}, "researcher: no endpoint; give --base-url"),
        ({"model": "m", "base_url": "http://h/v1"}, "the price of m is not known; give --price IN,OUT"),
        ({"model": "m", "base_url": "http://h/v1", "price": "cheap"}, "--price cheap: write IN,OUT"),
        ({"model": "m", "base_url": "http://h/v1", "price": "-1"}, "researcher.price.input"),
        ({"model": "m", "base_url": "localhost", "price": "0"}, "researcher.base_url"),
        ({"model": "m", "base_url": "http://h/v1", "price": "0", "prompts": "/nowhere"}, "/nowhere is no folder"),
    ],
)
def test_what_is_missing_is_said_with_the_fix(given: dict[str, str], message: str) -> None:
    with pytest.raises(LlmSettingsError) as error:
        make_settings(**given)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode = ", "not TOML"),
        (f'{FILE}\n[researcher]\napi_key = "sk-1"', "researcher.api_key: Extra inputs are not permitted"),
        (f"max_turns = 3\n{FILE}", "max_turns: Extra inputs"),
        (FILE.replace("contexts = 3", "contexts = 0"), "contexts: Input should be greater"),
        ("default = 3", "default: must be a table"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LlmSettingsError) as error:
        make_settings(write(tmp_path, text))
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LlmSettingsError, match=r"llm.toml: No such file"):
        make_settings(tmp_path / "llm.toml")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://me:hidden@host/v1", "has a user or password in it"),
        ("https://hidden@host/v1", "has a user or password in it"),
        ("https://host/v1?key=hidden", "has a query or fragment"),
        ("https://host/v1#hidden", "has a query or fragment"),
        ("https://:8000/v1", "has no host"),
        ("https://host:hidden/v1", "has no host"),
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(url: str, problem: str) -> None:
    with pytest.raises(LlmSettingsError, match=f"researcher.base_url: Value error, {problem}") as error:
        make_settings(model="m", base_url=url, price="0")
    assert "hidden" not in str(error.value)


def test_stored_settings_this_version_refuses_are_one_line() -> None:
    made = make_settings(model="m", base_url="http://127.0.0.1:1/v1", price="0").model_dump()
    assert stored_settings(made).researcher.model == "m"
    made["analyst"]["base_url"] = "http://me:hidden@127.0.0.1:1/v1"
    with pytest.raises(LlmSettingsError, match=r"stored with this run: analyst.base_url: .* start a new run") as error:
        stored_settings(made)
    assert "hidden" not in str(error.value)
