"""The ``gateway`` command. Parses, calls, prints; one line on stderr and the right exit status when it cannot."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from gateway import __version__
from gateway.errors import GatewayError

_USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What typer raises for wrong usage; newer ones carry a click of their own, so it has no importable name."""

_PLAIN: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}

app = typer.Typer(help="An inference gateway for vLLM whose policies are hot-swapped code.", **_PLAIN)
policy_app = typer.Typer(help="Look at and change the policies of a running gateway.", **_PLAIN)
app.add_typer(policy_app, name="policy")
key_app = typer.Typer(help="API keys of the data port.", **_PLAIN)
app.add_typer(key_app, name="key")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file; see docs/configuration.md.")]
WorkerOption = Annotated[
    list[str] | None, typer.Option("--worker", help="Worker URLs, comma-separated; may be repeated.")
]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", help="NAME_OR_FILE[@slot,…][:key=value,…], for every pool; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AdminOption = Annotated[
    str, typer.Option("--admin", envvar="RANVIER_ADMIN", help="The running gateway's admin address.")
]
TokenOption = Annotated[str | None, typer.Option("--token", envvar="RANVIER_ADMIN_TOKEN", help="Its admin token.")]
PoolOption = Annotated[str | None, typer.Option("--pool", help="Needed when there is more than one.")]
_ADMIN = "http://127.0.0.1:9000"


@app.callback(invoke_without_command=True)
def _gateway(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


@app.command(epilog="Example: gateway serve --worker http://10.0.0.7:8000,http://10.0.0.8:8000 --policy head_room")
def serve(
    config: ConfigOption = None,
    worker: WorkerOption = None,
    policy: PolicyOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the data port.  [default: 0.0.0.0]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Data port; 0: any free one.  [default: 8000]")
    ] = None,
    admin_host: Annotated[str | None, typer.Option(help="[default: 127.0.0.1]")] = None,
    admin_port: Annotated[int | None, typer.Option(min=0, max=65_535, help="[default: 9000]")] = None,
    admin_token_file: Annotated[Path | None, typer.Option(help="Holds the bearer token of the admin port.")] = None,
    mock: Annotated[int | None, typer.Option(min=0, help="Start so many mock workers as well.")] = None,
    mock_speed: Annotated[float | None, typer.Option(help="Mock engine seconds in a real second.")] = None,
    mock_profile: Annotated[str | None, typer.Option(help="Profile of the mock workers.")] = None,
    mock_arg: Annotated[
        list[str] | None, typer.Option(help="One more option of gateway mock-worker, as in --mock-arg=--seed=7.")
    ] = None,
    event_log: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where every event is logged, for gateway replay-log.  [default: in the user's state directory]",
        ),
    ] = None,
    no_event_log: Annotated[bool, typer.Option("--no-event-log", help="Keep no record of events.")] = False,
    decision_log: Annotated[Path | None, typer.Option(metavar="DIR", help="Write sampled decisions in words.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    supervised: Annotated[
        bool, typer.Option("--supervise", help="Start the gateway again when it dies or stands still.")
    ] = False,
    inherited: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve until SIGTERM. Options are laid over the configuration file."""
    from gateway.config import Config
    from gateway.config_file import load_config
    from gateway.telemetry import logs

    options: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port},
        "admin": {"host": admin_host, "port": admin_port, "token_file": _absolute(admin_token_file)},
        "mock": {"count": mock, "speed": mock_speed, "profile": mock_profile, "arguments": mock_arg},
        "event_log": {"dir": _absolute(event_log), "enabled": False if no_event_log else None},
        "decisions": {"dir": _absolute(decision_log)},
        "log": {"level": log_level, "format": log_format},
    }

    def read() -> Config:
        return load_config(config, lambda tables: _amend(tables, options, worker, policy))

    configured = read()
    logs.configure(configured.log.level, configured.log.format)
    if supervised and inherited is None:
        from gateway.supervisor import supervise

        raise typer.Exit(supervise(configured, sys.argv[1:]))
    from gateway import process
    from gateway.inherited import Inherited

    process.serve(configured, read, Inherited.parse(inherited) if inherited else None, config)


@app.command(epilog="Example: gateway check --config gateway.toml")
def check(
    config: ConfigOption = None,
    worker: WorkerOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration and every policy it names, without serving."""
    from gateway.check import check_all
    from gateway.config_file import load_config

    configured = load_config(config, lambda tables: _amend(tables, {}, worker, policy))
    report = asyncio.run(check_all(configured))
    if as_json:
        return _print_json(report)
    for pool in report["pools"]:
        slots = ", ".join(f"{slot}: {p['policy']} {p['hash'][:12]}" for slot, p in pool["slots"].items())
        typer.echo(f"pool {pool['pool']}: {slots or 'built-in'}")
    typer.echo(f"ok: {len(report['pools'])} pool(s), {report['workers']} worker(s)")
    return None


@key_app.command("new", epilog="Example: gateway key new --tenant search --model meta-llama/Llama-3.1-8B-Instruct")
def key_new(
    tenant: Annotated[str, typer.Option(help="Whose requests they are.")],
    name: Annotated[str | None, typer.Option(help="To tell keys apart.  [default: the tenant and a number]")] = None,
    model: Annotated[list[str] | None, typer.Option(help="It may use; may be repeated.  [default: all]")] = None,
    priority: Annotated[int, typer.Option(help="Of its requests, higher first.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make an API key. It is shown this once; the entry for the keys file holds only its hash."""
    from gateway.api_keys import entry, new_key

    key = new_key()
    text = entry(name or f"{tenant}-{secrets.token_hex(3)}", key, tenant, tuple(model or ()), priority)
    if as_json:
        return _print_json({"key": key, "entry": text})
    typer.echo(f"key, for its user, not shown again:\n{key}\n\nentry, for the file that api_keys.file names:\n{text}")
    return None


@app.command(
    "mock-worker",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: gateway mock-worker --port 8101 --count 2",
)
def mock_worker(context: typer.Context) -> None:
    """Serve as one or more vLLM servers that only pretend to compute."""
    from gateway.mockworker.command import main as mock_main

    raise typer.Exit(mock_main(context.args))


@app.command("replay-log", epilog="Example: gateway replay-log events/events-20261122T152004.000000Z-000001.jsonl")
def replay_log(
    file: Annotated[Path, typer.Argument(help="A file of the log; its run is replayed whole.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a gap, from the next checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replay an event log into a fresh dispatcher, and say whether every decision is the same, bit for bit.

    The policies that ran are in the log, and run again.
    """
    from dataclasses import asdict

    from gateway.telemetry.event_log import replay_log as replayed

    result = replayed(file, resume=resume)
    if as_json:
        return _print_json({"identical": True, **asdict(result)})
    cut = "; its last line is cut off, as by a kill" if result.cut else ""
    typer.echo(f"identical: {result.events} events, {result.dispatches} dispatches, {result.files} file(s){cut}")
    for gap in result.gaps:
        then = "the end" if gap.resumed_after is None else f"record {gap.resumed_after}"
        typer.echo(f"not replayed: from record {gap.first} to {then}: {gap.why}")
    return None


@policy_app.command("list", epilog="Example: gateway policy list --json")
def policy_list(admin: AdminOption = _ADMIN, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """What runs in each pool, and why the last change was refused, if it was."""
    from gateway.admin.client import AdminClient

    pools = AdminClient(admin, token).get("/admin/policies")["pools"]
    if as_json:
        return _print_json(pools)
    for pool in pools:
        typer.echo(_summary(pool))
    return None


@policy_app.command("show", epilog="Example: gateway policy show --pool default")
def policy_show(
    pool: PoolOption = None, admin: AdminOption = _ADMIN, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """One pool's policies with hashes and parameters, what can be rolled back to, and what happened so far."""
    from gateway.admin.client import AdminClient
    from gateway.promoted import summary

    client = AdminClient(admin, token)
    shown = client.get(f"/admin/policies/{client.pool(pool)}")
    if as_json:
        return _print_json(shown)
    typer.echo(_summary(shown))
    for slot, p in (shown["current"] or {"slots": {}})["slots"].items():
        params = ", ".join(f"{k}={v}" for k, v in p["params"].items())
        typer.echo(f"  {slot}: {p['policy']}({params}) {p['hash']}")
    for promotion in (shown["current"] or {}).get("promoted", ()):
        typer.echo("\n".join(f"  {line}" for line in summary(promotion)))
    for entry in shown["log"]:
        what = f"generation {entry['generation']}: {entry['specs']}" if entry["ok"] else f"refused: {entry['message']}"
        typer.echo(f"  {entry['at']} {entry['origin']} {what}")
    return None


@policy_app.command("load", epilog="Example: gateway policy load ./my_policy.py:alpha=0.5")
def policy_load(
    specs: Annotated[list[str], typer.Argument(metavar="SPEC…", help="NAME_OR_FILE[@slot,…][:key=value,…]")],
    pool: PoolOption = None,
    admin: AdminOption = _ADMIN,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a policy set and swap it in. Files are read by the gateway, on its machine."""
    from gateway.admin.client import AdminClient

    client = AdminClient(admin, token)
    loaded = client.post(f"/admin/policies/{client.pool(pool)}/load", {"specs": _absolute_specs(specs)})
    _print_json(loaded) if as_json else typer.echo(_summary(loaded))


@policy_app.command("rekey", epilog="Example: gateway policy rekey --pool default")
def policy_rekey(
    pool: PoolOption = None, admin: AdminOption = _ADMIN, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Ask the scheduling policy anew for the place of everything that is held."""
    from gateway.admin.client import AdminClient

    client = AdminClient(admin, token)
    done = client.post(f"/admin/policies/{client.pool(pool)}/rekey", {})
    _print_json(done) if as_json else typer.echo(f"{done['pool']}: {done['num_rekeyed_requests']} held")


@policy_app.command("rollback", epilog="Example: gateway policy rollback --generation 3")
def policy_rollback(
    generation: Annotated[int | None, typer.Option(help="The one before, if left out.")] = None,
    pool: PoolOption = None,
    admin: AdminOption = _ADMIN,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an earlier policy set back."""
    from gateway.admin.client import AdminClient

    client = AdminClient(admin, token)
    body = {} if generation is None else {"generation": generation}
    loaded = client.post(f"/admin/policies/{client.pool(pool)}/rollback", body)
    _print_json(loaded) if as_json else typer.echo(_summary(loaded))


def _amend(
    tables: dict[str, Any],
    options: dict[str, dict[str, Any]],
    workers: list[str] | None,
    policies: list[str] | None,
) -> None:
    """Lays the command line over the file's tables: workers are added, the rest replaces."""
    for name, given in options.items():
        known = {key: value for key, value in given.items() if value is not None}
        if known and isinstance(tables.setdefault(name, {}), dict):
            tables[name] = {**tables[name], **known}
    urls = [url.strip() for text in workers or () for url in text.split(",") if url.strip()]
    if urls and isinstance(tables.setdefault("worker", []), list):
        tables["worker"] = [*tables["worker"], *({"url": url} for url in urls)]
    pools = tables.setdefault("pool", [{}]) if policies else None
    if policies and isinstance(pools, list):
        tables["pool"] = [{**pool, "policies": [_absolute_specs(policies)]} for pool in pools]


def _absolute_specs(specs: list[str]) -> str:
    """Relative paths on a command line are relative to where it was typed."""
    from gateway.policy_loading import parse, spec_text

    return "+".join(spec_text(spec) for text in specs for spec in parse(text, Path.cwd()))


def _absolute(path: Path | None) -> str | None:
    return str(path.expanduser().resolve()) if path else None


def _summary(pool: dict[str, Any]) -> str:
    current, error = pool["current"], pool["last_error"]
    runs = f"generation {current['generation']}: {current['specs']}" if current else "the built-in"
    return f"{pool['pool']}: {runs}" + (f"\n  last error at {error['at']}: {error['message']}" if error else "")


def _print_json(value: Any) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def main() -> None:
    """The entry point: exits 0 only when the command did its job, 2 for wrong usage or configuration."""
    try:
        status = app(standalone_mode=False, prog_name="gateway")
    except _USAGE_ERROR as error:
        message = getattr(error, "format_message", error.__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{message}\n")
            sys.exit(2)
        sys.stderr.write(f"error: {' '.join(message.split())}; gateway --help lists commands and options\n")
        sys.exit(2)
    except GatewayError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
