"""From the ledger to a policy file in use, and back. The bytes evaluated are the bytes promoted, checked by hash.

A promoted file is a header of comments, a marker line that carries the hash of everything below it, and below it the
evaluated bytes, unchanged. ``active.toml`` beside it says what is in force and what was before; the bytes of every
promoted version are kept, so a rollback needs nothing else.
"""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from designer.findings import read_findings
from designer.ledger import Ledger
from designer.promotion_evidence import batch_of, evidence_of
from designer.replay_evidence import contradiction_in, judged, pairs_in, too_many_aborted
from designer.report import to_json
from designer.sealed_state import SealedState
from designer.swap_in import harm_in, rehearse
from gateway.batch_guard import vllm_flags
from gateway.errors import PolicyRefusedError
from gateway.promoted import EVIDENCE, MARKER, promotion_of
from policies.conformance import check_source
from policies.loader import Param, identity
from policies.syntax import parse

ACTIVE_FILE = "active.toml"
ARCHIVE_FOLDER = ".promoted"


class PromotionError(Exception):
    """A promotion or rollback that is refused; one line with the reason."""


@dataclass(frozen=True, slots=True)
class Version:
    """One promoted policy, as ``active.toml`` records it."""

    file: str
    file_sha256: str
    policy_hash: str
    """What the gateway calls it: the loader's identity of the file and its default parameters."""
    evaluated_sha256: str
    """Of the bytes below the marker: the candidate's hash in the ledger."""
    promoted_at: str
    run: str
    scenario: str
    scenario_hash: str
    proposer: str
    parents: list[str]
    verdict: str
    comparator: str
    ratio: float
    """Sealed, to the comparator; below 1 is better. 0.0: never sealed."""
    interval: list[float]
    sealed_seeds: int
    forced: bool = False
    replay: str = ""
    """What all replays through the real gateway said; empty: there was none."""
    swap_in: str = ""
    """What the rehearsed swap under overload said."""
    vllm_flags: str = ""
    """What every vLLM must be started with for the policy's batch rules; empty: it has none."""


@dataclass(frozen=True, slots=True)
class Active:
    """The content of ``active.toml``."""

    active: Version
    previous: list[Version] = field(default_factory=list)
    """Latest first."""


def promote(ledger: Ledger, target: Path, *, force: bool = False) -> Version:
    """Write the run's sealed winner to ``target`` with its provenance, and record it beside it.

    Raises:
        PromotionError: there is no winner; it is not better, replays contradict that or too many were stopped, the swap
            does harm, or parts were never tried together, and ``force`` is not set; its bytes are not
            those that were evaluated; or the file cannot be written.
        LedgerError: the ledger's bytes were altered.
    """
    state = _winner(ledger, force)
    objections = list(_objections(ledger, state))
    if objections and not force:
        raise PromotionError(f"{ledger.path}: {objections[0]} See --force")
    source = ledger.subject(str(state.digest)).parts[0].source
    if hashlib.sha256(source.encode()).hexdigest() != state.digest:
        raise PromotionError(f"{ledger.path}: the stored bytes are not those that were evaluated")
    _check_evaluated_identity(ledger, str(state.digest), source)
    evidence = evidence_of(ledger, forced=bool(objections))
    version = _version(ledger, state, target, evidence)
    text = promoted_text(source, version, evidence)
    if violations := check_source(text):
        raise PromotionError(f"{target}: with its provenance it breaks the contract: line {violations[0]}")
    hashed = _with_hashes(version, text)
    _install(target, text, hashed)
    findings = to_json(read_findings(ledger))
    kept = json.dumps({"evidence": evidence, **findings, "version": asdict(hashed)}, indent=2)
    (target.parent / ARCHIVE_FOLDER / f"{hashed.file_sha256}.json").write_text(kept, encoding="utf-8")
    return hashed


def _objections(ledger: Ledger, state: SealedState) -> Iterator[str]:
    """Of the gates, in their order; the last one is simulated now if it was not before."""
    if not state.is_better:
        yield f"{state.said}."
    replays = judged(list(pairs_in(ledger)))
    if contradiction := contradiction_in(replays):
        yield contradiction
    if aborted := too_many_aborted(replays):
        yield aborted
    if harm := harm_in(rehearse(ledger)):
        yield harm
    if (batch := batch_of(ledger)) is not None and batch["objection"]:
        yield str(batch["objection"])


@contextmanager
def undone_unless_finished(target: Path) -> Iterator[None]:
    """Around a promotion or a rollback: when the block raises, all that it wrote beside ``target`` is as it was."""
    archive = target.parent / ARCHIVE_FOLDER
    kept = {path: path.read_bytes() for path in (target, target.parent / ACTIVE_FILE) if path.is_file()}
    archived = set(archive.iterdir()) if archive.is_dir() else set[Path]()
    made = [folder for folder in (archive, target.parent) if not folder.exists()]
    try:
        yield
    except BaseException:
        _put_back(target, kept, archived)
        for folder in made:
            with suppress(OSError):  # it was never made
                folder.rmdir()
        raise


def _put_back(target: Path, kept: Mapping[Path, bytes], archived: set[Path]) -> None:
    archive = target.parent / ARCHIVE_FOLDER
    for path in (target, target.parent / ACTIVE_FILE):
        if path not in kept:
            path.unlink(missing_ok=True)
        elif path.read_bytes() != kept[path]:
            _replace(path, kept[path].decode())
    for path in set(archive.iterdir()) - archived if archive.is_dir() else ():
        path.unlink()


def rollback(target: Path) -> Version:
    """Put the version before back in the place of ``target``; the one taken out is forgotten, its bytes are kept.

    Raises:
        PromotionError: nothing was promoted there before, or its kept bytes are not what was recorded.
    """
    active = read_active(target.parent)
    if active is None or active.active.file != target.name:
        raise PromotionError(f"{target}: {ACTIVE_FILE} beside it knows of no promotion to it")
    if not active.previous:
        raise PromotionError(f"{target}: there was no promoted version before this one")
    before, *older = active.previous
    kept = target.parent / ARCHIVE_FOLDER / f"{before.file_sha256}.py"
    try:
        text = kept.read_text(encoding="utf-8")
    except OSError as error:
        raise PromotionError(f"{kept}: the version before cannot be read: {error.strerror}") from None
    if hashlib.sha256(text.encode()).hexdigest() != before.file_sha256:
        raise PromotionError(f"{kept}: its bytes are not those that were promoted")
    _replace(target, text)
    _write_active(target.parent, Active(before, older))
    return before


def verify(path: Path) -> str:
    """The hash of the evaluated bytes in a promoted file.

    Raises:
        PromotionError: it has no marker, or the bytes below it are not what the marker says.
    """
    try:
        promotion = promotion_of(path.read_bytes().decode("utf-8"), str(path))
    except PolicyRefusedError as error:
        raise PromotionError(str(error)) from None
    if promotion is None:
        raise PromotionError(f"{path}: not a promoted policy: it has no marker line")
    return promotion.evaluated_sha256


def promoted_text(source: str, version: Version, evidence: Mapping[str, Any]) -> str:
    """The file: provenance for people, evidence for the gateway, marker, and the source unchanged."""
    low, high = version.interval
    sealed = (
        f"{version.ratio:.4f} of {version.comparator} [{low:.4f}, {high:.4f}] on {version.sealed_seeds} sealed seeds"
    )
    lines = [
        "Promoted by ranvier's designer; see active.toml.",
        f"run: {version.run} ({version.proposer}), scenario {version.scenario} {version.scenario_hash[:12]}",
        f"parents: {', '.join(parent[:12] for parent in version.parents) or 'none'}",
        f"verdict: {version.verdict}{' (forced)' if version.forced else ''}; {sealed}",
        f"replay: {version.replay or 'none'}",
        f"swap-in: {version.swap_in or 'none'}",
        f"promoted: {version.promoted_at}",
    ]
    lines += [f"batch rules: vllm serve MODEL {version.vllm_flags}"] if version.vllm_flags else []
    told = f"{EVIDENCE}{json.dumps(evidence, separators=(',', ':'))}\n"
    comments = "".join(f"# {' '.join(line.split())}\n" for line in lines)  # whatever a name holds, it stays a comment
    return f"{comments}{told}{MARKER}{version.evaluated_sha256}\n{source}"


def read_active(folder: Path) -> Active | None:
    """What ``active.toml`` in ``folder`` says; None when there is none.

    Raises:
        PromotionError: it cannot be understood.
    """
    path = folder / ACTIVE_FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Active(Version(**data["active"]), [Version(**entry) for entry in data.get("previous", [])])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PromotionError(f"{path}: cannot be understood: {error}") from None


def default_parameters(source: str) -> dict[str, Param]:
    """The defaults of ``create``'s parameters, read from the source without running it."""
    for node in parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == "create":
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {
                argument.arg: _typed(ast.literal_eval(default), argument.annotation)
                for argument, default in pairs
                if default is not None
            }
    return {}


def _typed(value: Param, annotation: ast.expr | None) -> Param:
    is_float = isinstance(annotation, ast.Name) and annotation.id == "float"
    return float(value) if is_float and type(value) is int else value


def _winner(ledger: Ledger, force: bool) -> SealedState:
    state = SealedState.of(ledger)
    if not state.verdict:
        raise PromotionError(f"{ledger.path}: the run has not ended; designer resume {ledger.path.parent}")
    if state.digest is None:
        raise PromotionError(f"{ledger.path}: the run found nothing better, so there is nothing to promote")
    if not state.is_better and not force:
        raise PromotionError(f"{ledger.path}: {state.said}; see --force")
    return state


def _check_evaluated_identity(ledger: Ledger, digest: str, source: str) -> None:
    """The loader's identity that the sandbox reported is that of these bytes."""
    reported = {e.policy_hashes for e in ledger.evaluations() if e.digest == digest and e.status == "scored"}
    expected = identity(source.encode(), default_parameters(source))
    if reported != {(expected,)}:
        raise PromotionError(f"{ledger.path}: the loader's identity of what was evaluated is not that of these bytes")


def _version(ledger: Ledger, state: SealedState, target: Path, evidence: Mapping[str, Any]) -> Version:
    run, frozen, digest = ledger.run(), ledger.frozen(), str(state.digest)
    record = next((c for c in ledger.candidates("search") if c.proposal.candidate_hash == digest), None)
    gates = evidence["gates"]
    return Version(
        file=target.name,
        file_sha256="",
        policy_hash="",
        evaluated_sha256=digest,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run.run,
        scenario=run.scenario_name,
        scenario_hash=run.scenario_hash,
        proposer=record.proposer if record else "",
        parents=list(record.proposal.parents) if record else [],
        verdict=state.verdict,
        comparator=ledger.subject(frozen.comparator).label if frozen else "",
        ratio=float(state.look.get("ratio", 0.0)),
        interval=[float(end) for end in state.look.get("t_interval", (0.0, 0.0))],
        sealed_seeds=int(state.look.get("num_seeds", 0)),
        forced=bool(evidence["forced"]),
        replay=_said(gates["replay"]),
        swap_in=_said(gates["swap_in"]),
        vllm_flags=vllm_flags(str(target)) if evidence["batch"] else "",
    )


def _said(gate: Mapping[str, Any] | None) -> str:
    return "" if gate is None else str(gate["sentence"])


def _with_hashes(version: Version, text: str) -> Version:
    values = asdict(version)
    values["file_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    values["policy_hash"] = identity(text.encode(), default_parameters(text))
    return Version(**values)


def _install(target: Path, text: str, version: Version) -> None:
    """Archive, replace, record; the file first, so that what is recorded is there."""
    try:
        archive = target.parent / ARCHIVE_FOLDER
        archive.mkdir(parents=True, exist_ok=True)
        (archive / f"{version.file_sha256}.py").write_text(text, encoding="utf-8")
        before = read_active(target.parent)
        previous = [before.active, *before.previous] if before and before.active.file == target.name else []
        _replace(target, text)
        _write_active(target.parent, Active(version, previous))
    except OSError as error:
        raise PromotionError(f"{target}: cannot be written: {error.strerror}") from None
    if verify(target) != version.evaluated_sha256:
        raise PromotionError(f"{target}: what was written is not what was evaluated")


def _replace(path: Path, text: str) -> None:
    """In one step: a gateway that follows the file never reads half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _write_active(folder: Path, active: Active) -> None:
    lines = ["# Written by the designer: the policy in force, then those before it, latest first.", "[active]"]
    lines += _toml(active.active)
    for version in active.previous:
        lines += ["", "[[previous]]", *_toml(version)]
    _replace(folder / ACTIVE_FILE, "\n".join(lines) + "\n")


def _toml(version: Version) -> list[str]:
    """JSON's strings, numbers, booleans and arrays of these are TOML's too."""
    return [f"{key} = {json.dumps(value)}" for key, value in asdict(version).items()]
