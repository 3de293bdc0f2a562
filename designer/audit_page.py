"""What an audit found, as the tables of docs/audit.md and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from designer.audit import Finding
from designer.audit_pins import endured_as_pinned
from designer.audit_world import Check
from designer.endurance import Ordeal

_STRONG = frozenset({"seccomp", "landlock"})
"""Where the kernel has these, every candidate is caught by the layer that is written down."""


@dataclass(frozen=True, slots=True)
class Report:
    """One audit."""

    layers: tuple[str, ...]
    findings: Sequence[Finding]
    ordeals: Sequence[Ordeal]
    checks: Sequence[Check]

    @property
    def num_asked(self) -> int:
        return len(self.findings) + len(self.ordeals) + len(self.checks)

    def failures(self) -> list[str]:
        """One line for each thing that is not as it must be; empty: the audit is clean."""
        lines = [f"slipped: {finding.name}" for finding in self.findings if finding.slipped]
        lines += [f"harmed: {o.name}: {o.left or 'the sandbox did not go on'}" for o in self.ordeals if o.harmed]
        lines += [f"fails: {check.name}" for check in self.checks if not check.holds]
        return lines + (self._moved() if self.layers and set(self.layers) >= _STRONG else [])

    def _moved(self) -> list[str]:
        found = [(f.name, f.caught.layer, f.without_static.layer) for f in self.findings if f.moved and not f.slipped]
        endured = ((o.name, o.beside.layer, o.apart.layer) for o in self.ordeals)
        found += [ordeal for ordeal in endured if not endured_as_pinned(*ordeal)]
        return [f"caught elsewhere than is written down: {name}: {first}, {then}" for name, first, then in found]

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": list(self.layers),
            "cheats": [asdict(f) | {"slipped": f.slipped, "moved": f.moved} for f in self.findings],
            "hostile": [asdict(ordeal) | {"harmed": ordeal.harmed} for ordeal in self.ordeals],
            "checks": [asdict(check) | {"holds": check.holds} for check in self.checks],
            "num_slipped": sum(f.slipped for f in self.findings) + sum(not check.holds for check in self.checks),
            "failures": self.failures(),
        }


CHEAT_COLUMNS = ("cheat", "what it wants", "caught by", "s", "without the static rules", "s")
HOSTILE_COLUMNS = (
    *("candidate", "what it does", "static rules", "stopped in the first tier by", "s"),
    *("in the second by", "s", "went on", "left behind"),
)


def cheat_rows(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    return [
        (f.name, f.wants, f.caught.layer, _s(f.caught.seconds), f.without_static.layer, _s(f.without_static.seconds))
        for f in findings
    ]


def hostile_rows(ordeals: Iterable[Ordeal]) -> list[tuple[str, ...]]:
    return [
        (
            *(o.name, o.wants, "object" if o.static else "pass"),
            *(o.beside.layer, _s(o.beside.seconds), o.apart.layer, _s(o.apart.seconds)),
            *("yes" if o.went_on else "NO", o.left or "nothing"),
        )
        for o in ordeals
    ]


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("|" + "|".join("---" if cell == "---" else f" {cell} " for cell in line) + "|" for line in lines)


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"
