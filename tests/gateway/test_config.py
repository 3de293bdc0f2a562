"""Strictness of the configuration: each fault is one line that names the key, the value and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import Config, PoolSection
from gateway.config_file import load_config
from gateway.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs"


def load(folder: Path, text: str) -> Config:
    path = folder / "gateway.toml"
    path.write_text(text)
    return load_config(path)


def test_without_a_file_there_is_one_pool_with_the_default_policy() -> None:
    config = load_config()
    assert [(p.name, p.policies) for p in config.pool] == [("default", ("least_loaded",))]
    assert config.admin.is_loopback


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serve]", "serve: unknown key; did you mean server?"),
        ("[server]\nprt = 1", "server.prt: unknown key; did you mean port?"),
        ("[server]\nport = 'x'", "server.port: is 'x'; input should be a valid integer"),
        ("[server]\nport = 70000", "server.port: is 70000; input should be less than or equal to 65535"),
        ("[[pool]]\n[pool.queue]\nmax_secnds = 1", "pool[0].queue.max_secnds: unknown key; did you mean max_seconds?"),
        ("[[worker]]\nurl = 'ftp://x'", "worker[0].url: is 'ftp://x'; must be a URL such as http://10.0.0.7:8000"),
        (
            "[[worker]]\nurl = 'http://x:0'",
            "worker[0].url: is 'http://x:0'; has a port that is no number from 1 to 65535",
        ),
        ("[[worker]]", "worker[0].url: is missing; add it"),
        ("[[pool]]\nname='a'\n[[pool]]\nname='a'", "pool.name 'a' is there twice; each must differ"),
        ("[[worker]]\nurl='http://x:1'\npool='b'", "worker http://x:1: no pool is called 'b' (default)"),
        ("[[pool]]\nworkers=['http://x:1','http://x:1']", "worker 'x:1' is there twice; each must differ"),
        ("[admin]\ntoken = 5", "admin.token: is (hidden); input should be a valid string"),
        ("[pool.replicas]", "pool: is (a table); must be a list: of tables, each under [[…]]"),
        ("[[pool]]\n[pool.replicas.a]\nmin=3\nmax=1", "pool[0].replicas.a: is (a table); min is 3 and max is 1"),
        ("[policy]\nkill_seconds=0.001", "policy: is (a table); kill_seconds must not be under budget_seconds"),
        ("[timeouts]\nconnect_seconds = nan", "timeouts.connect_seconds: is nan; input should be"),
        ("base = 'x'", "base: unknown key"),
        ("[server", "does not parse: "),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        load(tmp_path, text)
    assert message in str(failure.value)
    assert str(tmp_path / "gateway.toml") in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_several_faults_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        load(tmp_path, "[server]\nport=-1\nhots='x'")


def test_workers_of_all_places_come_together(tmp_path: Path) -> None:
    config = load(tmp_path, "[[pool]]\nname='a'\nworkers=['http://x:1/']\n[[worker]]\nurl='https://y/base/'\nid='w'")
    assert [(w.worker_id, w.url, w.pool) for w in config.workers] == [
        ("x:1", "http://x:1", "a"),
        ("w", "https://y/base", "a"),
    ]


def test_it_cannot_be_changed_and_hides_its_secret(tmp_path: Path) -> None:
    config = load(tmp_path, "[admin]\ntoken = 'very secret'")
    with pytest.raises(ValidationError):
        config.server.port = 1  # type: ignore[misc]
    assert "very secret" not in config.model_dump_json() + repr(config)


def test_a_pool_may_have_its_own_queue() -> None:
    config = load_config(amend=lambda t: t.update(queue={"max_seconds": 5.0}, pool=[{"queue": {"max_requests": 3}}]))
    assert config.queue_of(config.pool[0]).max_requests == 3
    assert config.queue_of(PoolSection()).max_seconds == 5.0


def test_the_example_in_the_docs_is_valid() -> None:
    config = load_config(DOCS / "gateway.example.toml")
    assert config.workers


def test_every_key_is_documented() -> None:
    text = (DOCS / "configuration.md").read_text()
    missing = [f"{table}.{key}" for table, key in _keys() if f"`{key}`" not in text]
    assert missing == []


def _keys() -> list[tuple[str, str]]:
    tables = {
        name: field.annotation
        for name, field in Config.model_fields.items()
        if name not in ("pool", "worker", "tls", "base")
    }
    from gateway.config import FileDiscoverySection, ReplicasSection, TlsSection, WorkerSection

    tables |= {"pool": PoolSection, "worker": WorkerSection, "replicas": ReplicasSection, "file": FileDiscoverySection}
    tables |= {"tls": TlsSection}
    return [(name, key) for name, section in tables.items() for key in section.model_fields]  # type: ignore[union-attr]
