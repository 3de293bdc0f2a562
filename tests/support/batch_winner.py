"""The finished run, with a winner that has batch rules in place of its own."""

from __future__ import annotations

import json
from pathlib import Path

from designer.ledger import Ledger
from designer.promote import default_parameters
from designer.proposers.parts import PARTS, Joint, emit_joint
from designer.search import RunOutcome
from designer.subject import subject_of_source
from designer.swap_in import RESULT
from policies.loader import identity
from tests.support.ledger_copy import copied


def with_batch_winner(outcome: RunOutcome, folder: Path, *parts: str) -> Ledger:
    """A copy in which the first program of every part of ``parts`` won, jointly."""
    source = emit_joint(Joint(tuple((name, PARTS[name].founders[0][1]) for name in parts)))
    subject = subject_of_source(source, "both")

    def quoted(value: object) -> str:
        return str(value).replace("'", "''")

    row = f"'{subject.digest}', 'both', '{quoted(json.dumps(subject.to_json()['parts']))}'"
    hashes = json.dumps([identity(source.encode(), default_parameters(source))])
    return copied(
        outcome.folder,
        folder,
        f"INSERT INTO subjects VALUES ({row})",
        f"UPDATE frozen SET digest = '{subject.digest}'",
        f"UPDATE evaluations SET digest = '{subject.digest}', policy_hashes = '{quoted(hashes)}' "
        f"WHERE digest = '{outcome.winner}'",
        f"DELETE FROM results WHERE kind = '{RESULT}'",
    )
