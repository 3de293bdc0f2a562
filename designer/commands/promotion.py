"""``designer report``, ``promote`` and ``rollback``."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from designer.findings import read_findings
from designer.ledger import Ledger
from designer.promote import PromotionError, Version, promote, rollback, undone_unless_finished
from designer.report import to_json, to_text, write_html
from designer.swap_in import rehearse
from gateway.admin.client import AdminClient
from gateway.errors import GatewayError

RunArgument = Annotated[Path, typer.Argument(help="The folder of a run.")]
GatewayOption = Annotated[str | None, typer.Option(help="Admin address of a gateway on this machine.")]
PoolOption = Annotated[str | None, typer.Option(help="Its pool; needed when it has several.")]
TokenOption = Annotated[str | None, typer.Option(envvar="RANVIER_ADMIN_TOKEN", help="Its admin token.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_GATEWAY = "--gateway"


def report_command(
    run: RunArgument,
    page: Annotated[Path | None, typer.Option("--html", help="Where to write the page; RUN/report.html.")] = None,
    json: JsonOption = False,
) -> None:
    """What a run found, as text and as one self-contained HTML page.

    Example: designer report runs/first
    """
    with Ledger.open(run) as ledger:
        findings = read_findings(ledger)
        path = page or ledger.path.parent / "report.html"
    try:
        write_html(findings, path)
    except OSError as error:
        raise PromotionError(f"{path}: cannot be written: {error.strerror}") from None
    typer.echo(json_module.dumps(to_json(findings), indent=2) if json else f"{to_text(findings)}\n\nreport: {path}")


def promote_command(
    run: RunArgument,
    to: Annotated[Path | None, typer.Option(help="The policy file to write; RUN/promoted/designed.py.")] = None,
    gateway: GatewayOption = None,
    pool: PoolOption = None,
    token: TokenOption = None,
    force: Annotated[bool, typer.Option(help="Also when a gate refuses it; that is recorded.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the winner of a run with its provenance, and swap it into a running gateway.

    Example: designer promote runs/first --gateway http://127.0.0.1:9000
    """
    with Ledger.open(run) as ledger:
        target = (to or ledger.path.parent / "promoted" / "designed.py").resolve()
        if gateway is not None and any(sign in str(target) for sign in ":@+"):
            raise PromotionError(f"{target}: a policy's path cannot hold ':', '@' or '+'; choose another --to")
        into = _GatewayPool.reached(gateway, pool, token)
        with undone_unless_finished(target):
            version = promote(ledger, target, force=force)
            into.load(target, version)
    _tell(target, version, gateway, json)


def rehearse_command(run: RunArgument, json: JsonOption = False) -> None:
    """Simulate the winner's swap into an overloaded gateway; once, and promote does it if it was not done.

    Exit status 1: the swap does significant harm, and promote refuses it.

    Example: designer rehearse runs/first
    """
    with Ledger.open(run) as ledger:
        content = rehearse(ledger)
    typer.echo(json_module.dumps(dict(content), indent=2) if json else content["sentence"])
    if content["harm"]:
        raise typer.Exit(1)


def rollback_command(
    target: Annotated[Path | None, typer.Argument(help="A promoted policy file, or the folder of a run.")] = None,
    gateway: GatewayOption = None,
    pool: PoolOption = None,
    token: TokenOption = None,
    json: JsonOption = False,
) -> None:
    """Put the promoted version before back in its file and into --gateway; without a file, what the gateway ran before.

    Example: designer rollback --gateway http://127.0.0.1:9000
    """
    if target is None:
        _roll_gateway_back(gateway, pool, token, json)
        return
    path = (target / "promoted" / "designed.py" if target.is_dir() else target).resolve()
    into = _GatewayPool.reached(gateway, pool, token)
    with undone_unless_finished(path):
        version = rollback(path)
        into.load(path, version)
    _tell(path, version, gateway, json)


def _roll_gateway_back(gateway: str | None, pool: str | None, token: str | None, json: bool) -> None:
    if gateway is None:
        raise PromotionError("name a promoted file or the folder of a run, or a gateway with --gateway")
    client = AdminClient(gateway, token, option=_GATEWAY)
    answer = client.post(f"/admin/policies/{client.pool(pool)}/rollback", {})
    current = answer.get("current") or {}
    typer.echo(
        json_module.dumps(answer, indent=2) if json else f"{gateway}: runs {current.get('specs', 'the built-in')}"
    )


class _GatewayPool:
    """Where a promoted file is swapped in: a pool that was there before anything was written, or nowhere."""

    def __init__(self, client: AdminClient | None, gateway: str, pool: str) -> None:
        self._client, self._gateway, self._pool = client, gateway, pool

    @classmethod
    def reached(cls, gateway: str | None, pool: str | None, token: str | None) -> _GatewayPool:
        """GatewayError when it does not answer, or when which pool is not said."""
        if gateway is None:
            return cls(None, "", "")
        client = AdminClient(gateway, token, option=_GATEWAY)
        return cls(client, gateway, client.pool(pool))

    def load(self, path: Path, version: Version) -> None:
        """Have the gateway swap the file in, and make sure that it is what runs there."""
        if self._client is None:
            return
        body = {"specs": [str(path)], "sha256": {str(path): version.file_sha256}}
        try:
            answer = self._client.post(f"/admin/policies/{self._pool}/load", body)
        except GatewayError as error:
            raise GatewayError(f"{error}; {path} is as it was") from None
        running = {slot["hash"] for slot in (answer.get("current") or {}).get("slots", {}).values()}
        if running != {version.policy_hash}:
            told = f"{self._gateway}: runs {sorted(running)}, not the promoted {version.policy_hash}"
            raise GatewayError(f"{told}; {path} is as it was")


def _tell(path: Path, version: Version, gateway: str | None, json: bool) -> None:
    if json:
        content: dict[str, Any] = {**asdict(version), "path": str(path), "gateway": gateway}
        typer.echo(json_module.dumps(content, indent=2))
        return
    where = f", running at {gateway}" if gateway else ""
    typer.echo(f"{path}: {version.evaluated_sha256[:12]} of run {version.run}, {version.verdict}{where}")
    if version.vllm_flags:
        typer.echo(
            f"The gateway does not run its batch rules. Start every worker as: vllm serve MODEL {version.vllm_flags}"
        )
