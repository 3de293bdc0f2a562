"""A key goes to the host it is for, and to nobody by the way."""

from __future__ import annotations

from typing import Any

import pytest

from designer.proposers.llm.keys import check_keys, key_of
from designer.proposers.llm.settings import LlmSettings, LlmSettingsError, make_settings


def settings(url: str, **roles: Any) -> LlmSettings:
    made = make_settings(model="m", base_url=url, price="0").model_dump()
    return LlmSettings.model_validate({**made, **{name: {**made[name], **more} for name, more in roles.items()}})


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-of-mine")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "sk-of-openai"),
        ("https://api.openai.com.example/v1", "sk-of-mine"),
        ("https://models.example/v1", "sk-of-mine"),
        ("http://127.0.0.1:8000/v1", "sk-of-mine"),
        ("http://[::1]:8000/v1", "sk-of-mine"),
        ("http://localhost:8000/v1", "sk-of-mine"),
    ],
)
def test_openais_key_goes_to_openai_alone(url: str, key: str) -> None:
    assert key_of(settings(url).researcher) == key


@pytest.mark.parametrize("url", ["http://10.0.0.5:8000/v1", "http://models.example/v1", "http://localhost.example/v1"])
def test_a_key_is_not_sent_in_the_clear_unless_somebody_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(url)
    with pytest.raises(LlmSettingsError, match=r"RANVIER_LLM_KEY would be sent in the clear to .* plain_http = true"):
        check_keys(made)
    assert key_of(settings(url, researcher={"plain_http": True}).researcher) == "sk-of-mine"
    monkeypatch.delenv("RANVIER_LLM_KEY")
    check_keys(made)


def test_a_key_nobody_named_is_not_shared_between_hosts() -> None:
    shared = settings("https://one.example/v1", analyst={"base_url": "https://two.example/v1"})
    with pytest.raises(LlmSettingsError, match=r"analyst: .* to https://two.example and to https://one.example; name"):
        check_keys(shared)
    check_keys(settings("https://one.example/v1", analyst={"base_url": "https://one.example/other"}))
    named = {"base_url": "https://two.example/v1", "api_key_env": "OPENAI_API_KEY"}
    check_keys(settings("https://one.example/v1", analyst=named))


def test_what_is_no_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANVIER_LLM_KEY", "sk-two\nlines")
    with pytest.raises(LlmSettingsError, match="has characters that no key has") as error:
        check_keys(settings("https://one.example/v1"))
    assert "sk-" not in str(error.value)
