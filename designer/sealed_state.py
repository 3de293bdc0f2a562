"""What a run's sealed test came to, for whoever acts on it: a test that failed is no verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from designer.ledger import Ledger


@dataclass(frozen=True, slots=True)
class SealedState:
    """Of the latest look."""

    digest: str | None
    """The frozen winner; None: there is none."""
    verdict: str
    """``better``, ``worse``, ``undecided``; ``failed``: a policy failed, so nothing was compared; empty: the run has
    not ended."""
    look: Mapping[str, Any]
    """The latest look's content; empty: none was made."""
    failure: str = ""

    @classmethod
    def of(cls, ledger: Ledger) -> SealedState:
        frozen, verdict = ledger.frozen(), ledger.result("verdict")
        number, look = 1, dict[str, Any]()
        while (content := ledger.result(f"sealed {number}")) is not None:
            number, look = number + 1, dict(content)
        digest, failure = None if frozen is None else frozen.digest, str(look.get("error", ""))
        said = "" if verdict is None else str(verdict["verdict"])
        return cls(digest, "failed" if said and failure else said, look, failure)

    @property
    def is_better(self) -> bool:
        return self.verdict == "better"

    @property
    def said(self) -> str:
        """Why it is not better; one phrase."""
        if self.verdict == "failed":
            return f"its sealed test compared nothing, as a policy failed: {self.failure}"
        if not self.verdict:
            return "the run has not ended"
        return f"its sealed verdict is {self.verdict!r}, not 'better'"
