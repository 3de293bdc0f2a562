"""Keys at rest: what is made, what is kept of it, and what a faulty file says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gateway.api_keys import ApiKey, digest, entry, load_keys, new_key, read_keys
from gateway.config import ApiKeysSection
from gateway.errors import ConfigError


def test_an_entry_finds_its_key_again_and_does_not_hold_it() -> None:
    key = new_key()
    text = entry("a-1", key, "a", ("m", "n"), 3)
    assert key not in text
    assert key.removeprefix("sk-ranvier-") not in text
    keys = read_keys(tomllib.loads(text), "x")
    assert keys[digest(key.encode())] == ApiKey("a-1", "a", frozenset(("m", "n")), 3)
    assert digest(new_key().encode()) not in keys


def test_a_key_without_models_may_use_all() -> None:
    assert ApiKey("a", "a", frozenset(), 0).may_use("m")
    assert not ApiKey("a", "a", frozenset("n"), 0).may_use("m")
    assert not ApiKey("a", "a", frozenset("n"), 0).may_use("")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys.toml: key: is missing; add it"),
        ("[[key]]\nname='a'\nhash='sk-plain'\ntenant='t'", 'must be "sha256:" and 64 digits'),
        ("[[key]]\nname='a'\nhash='sha256:" + "0" * 64 + "'", "key[0].tenant: is missing"),
        ("[[key]]\nname='a'\nhash='sha256:" + "0" * 64 + "'\ntenant='t'\nmodel='m'", "did you mean models?"),
        (2 * ("[[key]]\nname='a'\nhash='sha256:" + "0" * 64 + "'\ntenant='t'\n"), "key 'a' is there twice"),
    ],
)
def test_a_faulty_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(ConfigError) as failure:
        load_keys(ApiKeysSection(file="keys.toml"), tmp_path.joinpath)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
    assert "sk-plain" not in str(failure.value)


def test_the_environment_holds_a_files_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ApiKeysSection(env="SOME_KEYS")
    with pytest.raises(ConfigError, match="SOME_KEYS is not set"):
        load_keys(settings, tmp_path.joinpath)
    monkeypatch.setenv("SOME_KEYS", entry("a", "k", "t"))
    keys = load_keys(settings, tmp_path.joinpath)
    assert keys is not None
    assert keys[digest(b"k")].tenant == "t"


def test_they_are_off_unless_named(tmp_path: Path) -> None:
    assert load_keys(ApiKeysSection(), tmp_path.joinpath) is None
